"""One pair and one set of clips: makes contestants of methods and lets them take turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.benchmark.clips import BenchmarkClip
from pipeline.benchmark.contestants import Contestant, EngineContestant
from pipeline.benchmark.interleaved import Entry, decode_in_turn
from pipeline.benchmark.methods import LOOSE_START, PLAIN, Method, Runner
from pipeline.benchmark.oracle import oracle_of
from pipeline.benchmark.peers import GenerateContestant
from pipeline.benchmark.runs import MethodRuns, PartRuns, Setting
from pipeline.benchmark.tuning import best_of, tune
from pipeline.config import GenerationConfig, PromptConfig
from pipeline.decoding.engine import CaptionEngine
from pipeline.decoding.sessions import DecodingModel
from pipeline.models.transformers_model import TransformersVideoLM

Rates = dict[str, dict[int, float]]
"""Tokens/s by method and K, as tuning found them."""


@dataclass(frozen=True, slots=True, eq=False)
class Competition:
    """``models`` are target and draft; ``generation`` but for max_num_seqs, which is the batch."""

    target: DecodingModel
    draft: DecodingModel
    generation: GenerationConfig
    prompt: PromptConfig
    setting: Setting
    print_line: Callable[[str], None]

    def contestant(self, method: Method, k: int | None, batch: int) -> Contestant:
        """The method at this K and batch size. Raises ValueError if it can't run."""
        generation = self.generation.model_copy(update={"max_num_seqs": batch})
        if method.runner in (Runner.GENERATE, Runner.ASSISTED):
            target, draft = self.target, self.draft
            if not isinstance(target, TransformersVideoLM):
                raise ValueError("not a model of transformers")
            assistant = draft if method.runner is Runner.ASSISTED else None
            assert assistant is None or isinstance(assistant, TransformersVideoLM)
            return GenerateContestant(target, assistant, self.prompt, generation, batch)
        settings = method.at(k)
        if method.runner is Runner.DRAFT_ALONE:
            return EngineContestant(
                CaptionEngine(self.draft, None, generation, settings), draft_alone=True
            )
        score = oracle_of(self.target.decode_text, self.target.eos_token_ids)
        return EngineContestant(
            CaptionEngine(
                self.target,
                self.draft,
                generation,
                settings,
                score_of_row=score if method.oracle else None,
            )
        )

    def run(
        self,
        part: str,
        methods: Sequence[Method],
        clips: Sequence[BenchmarkClip],
        warm_up: Sequence[BenchmarkClip],
        batch: int,
        tuned: Mapping[str, int],
    ) -> PartRuns:
        """All methods on all clips, each at its K (``tuned`` by method, where it is tuned).

        Raises ValueError if plain decoding is not among the methods.
        """
        if all(method.name != PLAIN for method in methods):
            raise ValueError(f"every part needs {PLAIN!r} to compare with")
        ks = {method.name: chosen_k(method, tuned) for method in methods}
        entries: dict[str, Entry] = {}
        refused: dict[str, str] = {}
        for method in methods:
            try:
                contestant = self.contestant(method, ks[method.name], batch)
            except ValueError as error:
                refused[method.name] = f"{type(error).__name__}: {error}"
                self.print_line(f"{part}: {method.name} refuses: {refused[method.name]}")
            else:
                entries[method.name] = Entry(contestant, method.every)
        label = f"{part}, batch {batch}"
        outcome = decode_in_turn(entries, clips, warm_up, batch, label, self.print_line)
        refused |= outcome.refused
        return PartRuns(
            part=part,
            batch=batch,
            setting=self.setting,
            truths=tuple(clip.truth for clip in clips),
            methods=tuple(
                MethodRuns(
                    method.name,
                    None if chooses_itself(method) else ks[method.name],
                    tuple(outcome.runs.get(method.name, ())),
                    refused.get(method.name),
                )
                for method in methods
            ),
        )

    def tune(
        self,
        methods: Sequence[Method],
        clips: Sequence[BenchmarkClip],
        warm_up: Sequence[BenchmarkClip],
        batch: int,
        starts: Mapping[str, int],
    ) -> Rates:
        """Rates of every method that is tuned, from ``starts`` where one is known."""
        rates: Rates = {}
        for method in methods:
            if method.start_k is None:
                continue

            def contestant_at(k: int, method: Method = method) -> Contestant:
                return self.contestant(method, k, batch)

            start = starts.get(method.name, method.start_k)
            label = f"tuning, batch {batch}, {method.name}"
            try:
                rates[method.name] = tune(
                    contestant_at, clips, warm_up, batch, start, label, self.print_line
                )
            except ValueError as error:
                self.print_line(f"{label}: refuses: {error}")
        return rates


def best_ks(rates: Rates) -> dict[str, int]:
    """Each method's K of the highest rate."""
    return {method: best_of(by_k) for method, by_k in rates.items()}


def chosen_k(method: Method, tuned: Mapping[str, int]) -> int | None:
    """The K that a method runs at; one that is not tuned yet takes what its tuning starts from.

    None where the method has no K or chooses it itself.
    """
    if method.fixed_k is not None:
        return method.fixed_k
    if method.same_k_as is not None:
        return tuned.get(method.same_k_as, LOOSE_START)
    return None if method.start_k is None else tuned.get(method.name, method.start_k)


def chooses_itself(method: Method) -> bool:
    """Whether the method's K varies from round to round."""
    return method.fixed_k is None and method.start_k is None and method.same_k_as is None
