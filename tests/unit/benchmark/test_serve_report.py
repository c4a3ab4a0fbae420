"""The endpoint's figures: what counts as an answer, ratios at equal load, growth over a soak."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.benchmark.raw_parts import PartSetting, load_part, save_part
from pipeline.benchmark.serve_report import growth, load_figures, markdown, write_summary
from pipeline.benchmark.serve_results import (
    LOAD,
    SOAK,
    Answered,
    LoadPart,
    LoadRun,
    ServeResults,
    SoakPart,
    SoakSample,
)

SETTING = PartSetting("abc", "2026-01-02", "a machine", "python jobs/x.py", 0.1, 1.9, "")


def answered(first_s: float = 0.5, total_s: float = 1.5, tokens: int = 11) -> Answered:
    return Answered(first_s, total_s, tokens, 0, (0.1, 0.2))


def load(*runs: LoadRun) -> LoadPart:
    return LoadPart(SETTING, "local", {"plain": ["--a"], "exact": []}, runs)


def soak(rss: list[int]) -> SoakPart:
    samples = tuple(
        SoakSample(60.0 * n, value, 40, 20, 2, 10 * n, 0) for n, value in enumerate(rss)
    )
    return SoakPart(SETTING, "local", 4, 0.5, 3, samples, ())


def test_a_speed_is_of_all_tokens_over_the_turn_and_compared_at_as_many_clients() -> None:
    part = load(
        LoadRun("plain", 1, 10.0, (answered(),) * 10),
        LoadRun("exact", 1, 5.0, (answered(),) * 10),
        LoadRun("exact", 2, 5.0, (answered(),) * 10),
    )
    plain, exact, alone = load_figures(part)
    assert plain.tokens_per_s == pytest.approx(11.0)
    assert (plain.against_plain, exact.against_plain, alone.against_plain) == (1.0, 2.0, None)
    assert exact.per_token_p50_s == pytest.approx(0.1)
    assert exact.gap_p99_s == pytest.approx(0.2, abs=0.01)


def test_what_failed_is_counted_and_never_timed() -> None:
    failed = Answered(9.0, 9.0, 0, 0, (), "429: full")
    part = load(
        LoadRun("plain", 1, 10.0, (answered(), failed)), LoadRun("exact", 1, 1.0, (failed,))
    )
    (figures,) = load_figures(part)
    assert (figures.n, figures.num_errors) == (1, 1)
    assert figures.first_token_p99_s == pytest.approx(0.5)


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    assert answered(tokens=1).per_token_s == 0.0


def test_growth_is_told_after_the_first_fifth() -> None:
    """A working size that is reached early is no growth; a line upwards is."""
    assert growth(soak([10, 100, *[200] * 18]), lambda s: s.rss_bytes).per_hour == pytest.approx(0)
    leaking = growth(soak([60 * n for n in range(20)]), lambda s: s.rss_bytes)
    assert leaking.per_hour == pytest.approx(3600)
    assert leaking.last > leaking.first
    with pytest.raises(ValueError, match="no soak"):
        growth(soak([1, 2]), lambda s: s.rss_bytes)


def test_the_report_is_made_from_what_lies_there_and_keeps_other_figures(tmp_path: Path) -> None:
    save_part(tmp_path, LOAD, load(LoadRun("plain", 1, 10.0, (answered(),) * 4)))
    save_part(tmp_path, SOAK, soak([100 << 20] * 20))
    results = ServeResults.read(tmp_path)
    text = markdown(results, "2026-01-02")
    assert "| 1 | plain | 4 | 1.00 |" in text
    assert "19 minutes, 4 clients" in text
    summary = tmp_path / "summary.json"
    summary.write_text(json.dumps({"decoding": 1, "serve": {"load": "old"}}))
    write_summary(summary, ServeResults(None, results.soak))
    write_summary(summary, results)
    figures = json.loads(summary.read_text())
    assert figures["decoding"] == 1
    assert figures["serve"]["load"]["endpoints"]["plain"]["1"]["n"] == 4
    assert figures["serve"]["soak"]["abandoned"] == 3
    assert load_part(tmp_path, "serve-nothing", LoadPart) is None
