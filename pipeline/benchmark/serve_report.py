"""The dated report of the endpoint's benchmark, and its figures for summary.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.benchmark.serve_results import Answered, LoadPart, LoadRun, ServeResults, SoakPart
from pipeline.dataset.run_folder import versions
from pipeline.report.markdown import table
from pipeline.statistics import Estimate, bootstrap_mean

PLAIN = "plain"
_KEY = "serve"
_MIB = 1 << 20
_SETTLED = 0.2
"""Share of a soak before which what it uses still grows into its working size."""

DEFINITIONS = """\
- *Client*: asks for the caption of a video that the endpoint has not seen, as a data URL, by a
  stream; asks the next as soon as it is answered. All endpoints are up at once and take turns, each
  number of clients in its own turn, over the same videos in the same order.
- *First token*: from sending the request to the first chunk with text; the video's upload, decoding
  and the prompt's reading are in it. *Per token*: from there to the end, by the number of tokens
  after the first. *Gap*: between two chunks with text; speculation commits several tokens at once.
- *Tokens/s*: output tokens of all clients over the turn's wall clock, videos decoded included.
- *Against plain*: ratio of tokens/s to that of the endpoint without speculation at as many clients.
  Brackets are 95 % intervals: of means by bootstrap over requests.
- Clients and endpoints share the machine's cores.
"""


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """Of one endpoint at one number of clients; s."""

    endpoint: str
    num_clients: int
    n: int
    num_errors: int
    tokens_per_s: float
    against_plain: float | None
    first_token: Estimate
    first_token_p50_s: float
    first_token_p99_s: float
    per_token: Estimate
    per_token_p50_s: float
    per_token_p99_s: float
    gap_p99_s: float
    total_p50_s: float
    total_p99_s: float


def load_figures(part: LoadPart) -> Iterator[LoadFigures]:
    """Of each run, in order; of requests that were answered. A run without one has no figures."""
    plain = {run.num_clients: _rate(run) for run in part.runs if run.endpoint == PLAIN}
    for run in part.runs:
        answered = [answer for answer in run.answers if answer.error is None]
        if not answered:
            continue
        base = plain.get(run.num_clients)
        gaps = [gap for answer in answered for gap in answer.gaps_s]
        yield LoadFigures(
            endpoint=run.endpoint,
            num_clients=run.num_clients,
            n=len(answered),
            num_errors=len(run.answers) - len(answered),
            tokens_per_s=_rate(run),
            against_plain=_rate(run) / base if base else None,
            first_token=bootstrap_mean([answer.first_token_s for answer in answered]),
            first_token_p50_s=_percentile(answered, lambda a: a.first_token_s, 50),
            first_token_p99_s=_percentile(answered, lambda a: a.first_token_s, 99),
            per_token=bootstrap_mean([answer.per_token_s for answer in answered]),
            per_token_p50_s=_percentile(answered, lambda a: a.per_token_s, 50),
            per_token_p99_s=_percentile(answered, lambda a: a.per_token_s, 99),
            gap_p99_s=float(np.percentile(gaps, 99)) if gaps else 0.0,
            total_p50_s=_percentile(answered, lambda a: a.total_s, 50),
            total_p99_s=_percentile(answered, lambda a: a.total_s, 99),
        )


@dataclass(frozen=True, slots=True)
class Growth:
    """Of one thing over the settled part of a soak: where it was, and where a line through says."""

    first: float
    last: float
    per_hour: float


def growth(part: SoakPart, value: Callable[[Any], float]) -> Growth:
    """By least squares over the samples after the first fifth. Raises ValueError of two or less."""
    start_s = part.samples[-1].at_s * _SETTLED
    settled = [sample for sample in part.samples if sample.at_s >= start_s]
    if len(settled) < 3:
        raise ValueError(f"{len(settled)} samples are no soak")
    times = np.array([sample.at_s for sample in settled])
    values = np.array([value(sample) for sample in settled], dtype=np.float64)
    slope = float(np.polyfit(times, values, 1)[0])
    third = max(1, len(values) // 3)
    return Growth(float(np.median(values[:third])), float(np.median(values[-third:])), slope * 3600)


def markdown(results: ServeResults, day: str) -> str:
    """The report of whatever parts there are."""
    sections = [f"# The endpoint under load, {day}", _settings(results), DEFINITIONS]
    if results.load is not None:
        figures = list(load_figures(results.load))
        flags = "\n".join(
            f"- *{name}*: `{' '.join(words)}`" for name, words in results.load.flags.items()
        )
        sections += ["## Load", flags, _load_table(figures), _latency_table(figures)]
    if results.soak is not None:
        sections += ["## Soak", _soak(results.soak)]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def write_summary(path: Path, results: ServeResults) -> None:
    """Put the figures into summary.json under `serve`; what else is there stays."""
    summary = json.loads(path.read_text()) if path.exists() else {}
    figures: dict[str, Any] = summary.get(_KEY, {})
    if results.load is not None:
        figures["load"] = _setting_of(results.load.setting) | {
            "runner": results.load.runner,
            "endpoints": _by_endpoint(list(load_figures(results.load))),
        }
    if results.soak is not None:
        figures["soak"] = _setting_of(results.soak.setting) | _soak_figures(results.soak)
    path.write_text(json.dumps(summary | {_KEY: figures}, indent=2) + "\n")


def _setting_of(setting: Any) -> dict[str, Any]:
    return {"commit": setting.commit, "date": setting.date, "hardware": setting.hardware}


def _by_endpoint(figures: Sequence[LoadFigures]) -> dict[str, dict[str, Any]]:
    endpoints: dict[str, dict[str, Any]] = {}
    for f in figures:
        endpoints.setdefault(f.endpoint, {})[str(f.num_clients)] = {
            "n": f.n,
            "errors": f.num_errors,
            "tokens_per_s": f.tokens_per_s,
            "against_plain": f.against_plain,
            "first_token_mean_s": f.first_token.value,
            "first_token_low_s": f.first_token.low,
            "first_token_high_s": f.first_token.high,
            "first_token_p50_s": f.first_token_p50_s,
            "first_token_p99_s": f.first_token_p99_s,
            "per_token_mean_s": f.per_token.value,
            "per_token_p50_s": f.per_token_p50_s,
            "per_token_p99_s": f.per_token_p99_s,
            "gap_p99_s": f.gap_p99_s,
            "total_p50_s": f.total_p50_s,
            "total_p99_s": f.total_p99_s,
        }
    return endpoints


def _soak_figures(part: SoakPart) -> dict[str, Any]:
    last = part.samples[-1]
    rss, fds = growth(part, lambda s: s.rss_bytes), growth(part, lambda s: s.num_fds)
    return {
        "minutes": last.at_s / 60,
        "num_clients": part.num_clients,
        "answered": last.num_answered,
        "failed": last.num_failed,
        "abandoned": part.num_abandoned,
        "rss_first_bytes": rss.first,
        "rss_last_bytes": rss.last,
        "rss_bytes_per_hour": rss.per_hour,
        "fds_first": fds.first,
        "fds_last": fds.last,
        "running_at_end": last.num_running,
    }


def _load_table(figures: Sequence[LoadFigures]) -> str:
    header = ["clients", "endpoint", "tokens/s", "against plain", "requests", "errors"]
    rows = [
        [
            str(f.num_clients),
            f.endpoint,
            f"{f.tokens_per_s:.0f}",
            "-" if f.against_plain is None else f"{f.against_plain:.2f}",
            str(f.n),
            str(f.num_errors),
        ]
        for f in figures
    ]
    return table(header, rows)


def _latency_table(figures: Sequence[LoadFigures]) -> str:
    header = [
        "clients", "endpoint", "first token, ms: mean", "p50", "p99",
        "per token, ms: mean", "p50", "p99", "gap p99, ms", "whole answer, s: p50", "p99",
    ]  # fmt: skip
    rows = [
        [
            str(f.num_clients),
            f.endpoint,
            _milliseconds(f.first_token),
            f"{f.first_token_p50_s * 1e3:.0f}",
            f"{f.first_token_p99_s * 1e3:.0f}",
            _milliseconds(f.per_token, 1),
            f"{f.per_token_p50_s * 1e3:.1f}",
            f"{f.per_token_p99_s * 1e3:.1f}",
            f"{f.gap_p99_s * 1e3:.0f}",
            f"{f.total_p50_s:.2f}",
            f"{f.total_p99_s:.2f}",
        ]
        for f in figures
    ]
    return table(header, rows)


def _soak(part: SoakPart) -> str:
    last = part.samples[-1]
    things: list[tuple[str, Callable[[Any], float], float]] = [
        ("resident memory, MiB", lambda s: s.rss_bytes, _MIB),
        ("open descriptors", lambda s: s.num_fds, 1),
        ("threads", lambda s: s.num_threads, 1),
    ]
    rows = []
    for name, value, unit in things:
        of = growth(part, value)
        rows.append(
            [name, f"{of.first / unit:.0f}", f"{of.last / unit:.0f}", f"{of.per_hour / unit:+.1f}"]
        )
    said = (
        f"{last.at_s / 60:.0f} minutes, {part.num_clients} clients that think {part.think_s:g} s "
        f"between requests: {last.num_answered} answered, {last.num_failed} failed, "
        f"{part.num_abandoned} broken off by the client in mid-answer; {last.num_running} slots "
        f"taken once the clients had stopped. All processes of the endpoint together "
        f"({part.runner}), medians of the first and last third after the first fifth of the time, "
        "and the slope of a line through all of it:"
    )
    errors = "".join(f"\n- {error}" for error in part.errors[:10])
    head = ["", "first third", "last third", "per hour"]
    return f"{said}\n\n{table(head, rows)}" + (f"\n\nErrors:\n{errors}" if errors else "")


def _settings(results: ServeResults) -> str:
    named = ", ".join(f"{name} {v}" for name, v in versions().items() if v)
    lines = [f"- versions: {named}"]
    for name, s in results.settings.items():
        note = f"; {s.note}" if s.note else ""
        lines.append(
            f"- {name}: `{s.command}`, commit {s.commit}, {s.date}, {s.hardware}, load average "
            f"{s.load_before:.1f} before and {s.load_after:.1f} after{note}"
        )
    return "\n".join(lines)


def _milliseconds(estimate: Estimate, digits: int = 0) -> str:
    low, high = estimate.low * 1e3, estimate.high * 1e3
    return f"{estimate.value * 1e3:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _rate(run: LoadRun) -> float:
    return sum(answer.output_tokens for answer in run.answers) / run.elapsed_s


def _percentile(
    answers: Sequence[Answered], value: Callable[[Answered], float], percent: float
) -> float:
    return float(np.percentile([value(answer) for answer in answers], percent))
