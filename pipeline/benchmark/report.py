"""The dated Markdown report, assembled from the raw results of whatever parts there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.benchmark import tables
from pipeline.benchmark.figures import MethodFigures
from pipeline.benchmark.methods import PLAIN, Method
from pipeline.benchmark.runs import PartRuns, Setting
from pipeline.benchmark.series import over_batch
from pipeline.dataset.run_folder import versions

DEFINITIONS = """\
- Every group of clips was decoded by all methods in turn, starting with another one each time;
  speed-ups are against plain decoding of the same clips in the same turns. Brackets are 95 %
  bootstrap intervals over clips.
- *Decode speed-up*: output tokens/s after the prefills. *End to end*: output tokens/s with both
  prefills and everything that the engine does between rows. *Clips/min ratio*: clips per minute end
  to end. A caption that is cut short raises the last and not the first two.
- *Mean accepted length*: drafted tokens kept per target step, **bonus token excluded**. *Tokens per
  target step*: all tokens that a target step gave, its own included.
- *Facts kept*: F1 of the caption's facts against those of the target's own caption (plain decoding
  in the same batch). *Facts right*: share of the video's facts that the caption states rightly.
- *Not the target's choice*: emitted tokens that are not the target's greedy choice in their place.
  *chrF*: against the target's own caption (100: equal).
- *K*: each method's own best, tuned on other clips; for adaptive methods the mean that was drafted.
- Peers of transformers decode batches that all rows leave together; theirs is no in-flight batch.
  Their prefill ends with the target's first forward (assisted generation drafts within it).
- The oracle reads the caption with each mismatch: its scoring time is part of its own time.
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """A part and its figures."""

    part: PartRuns
    figures: Sequence[MethodFigures]


@dataclass(frozen=True, slots=True)
class Report:
    """What there is to report. ``tuned``: tokens/s by batch, method and K. ``plots``: file names
    by title. ``steps``: the table of step times, empty if they were not measured."""

    measured: Sequence[Measured]
    tuned: Mapping[int, Mapping[str, Mapping[int, float]]]
    methods: Sequence[Method]
    plots: Mapping[str, str]
    steps: str

    def markdown(self, date: str) -> str:
        """The whole report. Sections of parts that were not run are left out."""
        main = self.figures("main")
        sections = [
            f"# Decoding methods on the reference pair, {date}",
            self._settings(),
            "## How to read this\n\n" + DEFINITIONS,
        ]
        if main:
            sections += [
                "## Speed\n\n" + tables.speed_table(main),
                "## Fidelity\n\n" + tables.fidelity_table(main),
                "## Where the time goes\n\nShares of wall-clock time.\n\n"
                + tables.time_table(main),
                "## Batch sizes\n\n"
                + tables.crossover_table(over_batch(main))
                + "\n\nClips per minute end to end, and against the smallest batch:\n\n"
                + tables.in_flight_table(main),
            ]
        if self.steps:
            sections.append("## The plain decode step\n\n" + self.steps)
        if exactness := self.figures("exactness"):
            sections.append(
                "## Exactness\n\nIn float32; lossless methods must say what plain decoding says.\n"
                f"\n{tables.fidelity_table(exactness)}{self._across_batches()}"
            )
        for part, title in (
            ("lengths", "Over K, batch 1"),
            ("ablations", "Ablations, batch 1"),
            ("frontier", "Facts kept against speed, batch 1"),
        ):
            if figures := self.figures(part):
                sections.append(f"## {title}\n\n" + tables.sweep_table(figures))
        if self.tuned:
            sections.append(
                "## Own best K\n\nTokens/s by K, on clips of another seed.\n\n"
                + tables.tuning_table(self.tuned)
            )
        if refused := self._refused():
            sections.append("## What could not run\n\n" + refused)
        sections += [f"## {title}\n\n![{title}]({file})" for title, file in self.plots.items()]
        described = "\n".join(f"- *{m.name}*: {m.about}" for m in self.methods)
        sections.append("## The methods\n\n" + described)
        return "\n\n".join(section.strip() for section in sections) + "\n"

    def figures(self, part: str, batch: int | None = None) -> list[MethodFigures]:
        """Of one part, all batches or one."""
        return [
            figure
            for each in self.measured
            if each.part.part == part and batch in (None, each.part.batch)
            for figure in each.figures
        ]

    def setting(self) -> Setting:
        """Of the main part if there is one, else of any. Raises ValueError without results."""
        if not self.measured:
            raise ValueError("there are no results to report")
        mains = [each.part.setting for each in self.measured if each.part.part == "main"]
        return (mains or [self.measured[0].part.setting])[-1]

    def _settings(self) -> str:
        named = ", ".join(f"{name} {v}" for name, v in versions().items() if v)
        lines = [f"- versions: {named}"]
        parts: dict[Setting, list[str]] = {}
        for each in self.measured:
            parts.setdefault(each.part.setting, []).append(each.part.name)
        for setting, names in parts.items():
            lines.append(
                f"- {', '.join(names)}: `{setting.command}`, commit {setting.commit}, "
                f"{setting.date}, {setting.hardware}, {setting.num_threads} thread(s), "
                f"target {setting.dtype}, draft {setting.draft_dtype}, corpus seed "
                f"{setting.corpus_seed}, calibration {setting.calibration or 'none'}, greedy"
            )
        return "\n".join(lines)

    def _across_batches(self) -> str:
        """Whether plain captions of the other batches are those of the smallest."""
        texts = {
            each.part.batch: [run.text for m in each.part.methods if m.method == PLAIN
                              for run in m.runs]
            for each in self.measured
            if each.part.part == "exactness"
        }  # fmt: skip
        first, *others = sorted(texts)
        lines = [
            f"Plain captions of batch {batch} that equal those of batch {first}: "
            f"{sum(a == b for a, b in zip(texts[first], texts[batch]))} of "
            f"{min(len(texts[first]), len(texts[batch]))}."
            for batch in others
        ]
        return "".join(f"\n\n{line}" for line in lines)

    def _refused(self) -> str:
        return "\n".join(
            f"- {each.part.name}, {method.method}: `{method.refused}`"
            for each in self.measured
            for method in each.part.methods
            if method.refused
        )
