"""The card's text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.dataset.card_columns import MEANINGS
from pipeline.dataset.card_facts import CardFacts, RunFacts, shown_name
from pipeline.dataset.layout import Table
from pipeline.progress import format_duration
from pipeline.report.markdown import table

_MAX_RUNS = 30
_MAX_PROMPT_CHARS = 4000


def body(facts: CardFacts) -> str:
    """Everything below the front matter."""
    sections = (
        f"# Video captions {facts.digest}",
        _introduction(facts),
        "## What captioned",
        *_origin(facts.config, facts.versions),
        "## Counts",
        _counts(facts),
        *_acceptance(facts.totals),
        *_failures(facts),
        "## Runs",
        _runs(facts.runs),
        "## How to load it",
        _loading(facts),
        "## Columns",
        *_columns(),
        "## Limits",
        _limits(facts),
    )
    return "\n\n".join(sections) + "\n"


def _introduction(facts: CardFacts) -> str:
    return (
        "Captions of video clips, written by a Video-LLM; a clip that could not be captioned is a "
        "row of the failures table, never a gap. The folder's name is the digest of everything "
        f"that changes captions. This page is made from metadata after every run; it tells of "
        f"commits 1 to {facts.num_commits}."
    )


def _origin(config: Mapping[str, Any], versions: Mapping[str, Any]) -> Iterator[str]:
    if not config:
        yield "No run left its configuration."
        return
    models, speculation = config.get("models") or {}, config.get("speculation") or {}
    generation, prompt = config.get("generation") or {}, config.get("prompt") or {}
    calibration = speculation.get("calibration")
    video = config.get("video") or {}
    lines = [
        ("model", _model(models.get("target"))),
        ("draft model", _model(models.get("draft"))),
        ("speculation method", speculation.get("method")),
        ("calibration", shown_name(calibration) if calibration else "none"),
        ("temperature", generation.get("temperature")),
        ("most tokens", generation.get("max_tokens")),
        ("frames", (video.get("sampling") or {}).get("policy")),
        ("clips", (video.get("clips") or {}).get("policy")),
        ("prompt", prompt.get("id")),
        *((name, versions.get(name)) for name in ("lvspec", "transformers", "torch")),
    ]
    yield _table(("", ""), [(name, str(value)) for name, value in lines if value is not None])
    for role in ("system", "text"):
        if prompt.get(role):
            yield f"The prompt's {'user message' if role == 'text' else 'system message'}:"
            yield _quoted(str(prompt[role]))


def _model(model: Mapping[str, Any] | None) -> str | None:
    if not model:
        return None
    revision = f", revision `{model['revision']}`" if model.get("revision") else ""
    return f"`{shown_name(str(model.get('name')))}`{revision}, {model.get('dtype')}"


def _quoted(text: str) -> str:
    """Indented: no text can end that."""
    lines = text[:_MAX_PROMPT_CHARS].splitlines()
    return "\n".join(f"    {line}" for line in lines)


def _counts(facts: CardFacts) -> str:
    captions, failures = (facts.num_rows[each] for each in Table)
    share = failures / (captions + failures) if captions + failures else 0.0
    rows = [
        ("captions", f"{captions}"),
        ("failures", f"{failures} ({share:.2%} of all clips)"),
        *([("superseded failures", str(facts.num_superseded))] if facts.num_superseded else ()),
        ("commits", f"{facts.num_commits}"),
    ]
    if facts.snapshot:
        name, commit = facts.snapshot.name, facts.snapshot.last_commit
        rows.append(("snapshot", f"`snapshots/{name}`: commits 1 to {commit}"))
    return _table(("", ""), rows)


def _acceptance(totals: Mapping[str, int]) -> Iterator[str]:
    if not totals.get("target_steps"):
        return
    accepted, steps = totals["accepted_tokens"], totals["target_steps"]
    drafted = totals["drafted_tokens"]
    yield "## Acceptance"
    yield f"Over the {totals['num_captions']} captions of the runs that left their figures."
    rows = [
        ("output tokens", f"{totals['output_tokens']}"),
        ("target steps", f"{steps}"),
        ("drafted tokens", f"{drafted}"),
        ("accepted tokens", f"{accepted}" + (f" ({accepted / drafted:.1%})" if drafted else "")),
        ("mean accepted length", f"{accepted / steps:.3f} drafted tokens a target step"),
    ]
    rows += [
        (f"{name} tokens", f"{count} ({count / accepted:.2%} of the accepted)")
        for name in ("relaxed", "shifted")
        if (count := totals[f"{name}_tokens"])
    ]
    yield _table(("", ""), rows)


def _failures(facts: CardFacts) -> Iterator[str]:
    if not facts.num_rows[Table.FAILURES]:
        return
    yield "## Failures"
    for name, counts in (("code", facts.failures_by_code), ("kind", facts.failures_by_kind)):
        by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        yield _table((name, "clips"), [(f"`{key}`", str(count)) for key, count in by_count])
    if facts.num_superseded:
        yield (
            f"{facts.num_superseded} more rows of the failures table are superseded: a caption or "
            "a row of a higher `attempt` has the same `clip_id`, or every clip of a video that "
            "failed as a whole has a row. A snapshot has none of them."
        )


def _runs(runs: Sequence[RunFacts]) -> str:
    rows = []
    for run in runs[:_MAX_RUNS]:
        metrics = run.metrics
        cells = ("?", "?", "was killed, or goes on")
        if metrics:
            status = str(metrics.get("status", "done"))
            cells = (
                str(metrics.get("num_captions", "?")),
                str(metrics.get("num_failures", "?")),
                format_duration(float(metrics.get("elapsed_s", 0.0)))
                + ("" if status == "done" else f" ({status})"),
            )
        rows.append((f"`{run.run_id}`", *cells))
    text = _table(("run", "captions", "failures", "time"), rows)
    return text + (f"\n\nThe newest {_MAX_RUNS} of {len(runs)}." if len(runs) > _MAX_RUNS else "")


def _loading(facts: CardFacts) -> str:
    snapshot = ""
    if facts.snapshot:
        snapshot = (
            f"\n\n`snapshots/{facts.snapshot.name}/` holds the rows of commits 1 to "
            f"{facts.snapshot.last_commit} again, sorted by source, in few large files: put it in "
            "front of `captions` below. `snapshots/latest.json` names the newest one."
        )
    return f"""\
`FOLDER` is where this file lies, as a path or a URL.{snapshot}

```python
import pyarrow.dataset
captions = pyarrow.dataset.dataset("FOLDER/captions").to_table()

import pandas
captions = pandas.read_parquet("FOLDER/captions")

import duckdb
duckdb.sql("SELECT caption, rejected_by_cause['mismatch'] FROM 'FOLDER/captions/*.parquet'")

import ray.data
captions = ray.data.read_parquet("FOLDER/captions")

import datasets
captions = datasets.load_dataset("FOLDER", "captions", split="train")
```"""


def _columns() -> Iterator[str]:
    for each in Table:
        yield f"### {each.capitalize()}"
        yield _table(
            ("column", "type", "meaning"),
            [
                (f"`{field.name}`", f"`{field.type}`", MEANINGS.get(field.name, ""))
                for field in each.schema
            ],
        )


def _limits(facts: CardFacts) -> str:
    lines = [
        "Captions are a model's: they can be wrong, and no person has read them.",
        "Videos are named, not included; their licenses are their own.",
        "Counters add up over rows; means must be made from their sums.",
        "`datasets` knows no maps, so it leaves `rejected_by_cause` out; all others read it.",
    ]
    if facts.num_commits:
        lines.append(
            "Parts may lack columns that came with a later version (a snapshot's never do), and "
            "there are parts without rows."
        )
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(header, [[_cell(cell) for cell in cells] for cells in rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
