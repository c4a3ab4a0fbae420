"""Guards the report, the tables and the summary: what ran is in them, what did not is said."""

import json

import pytest
import torch

from pipeline.benchmark import tables
from pipeline.benchmark.figures import figures_of
from pipeline.benchmark.methods import EXACT, LVSPEC, PLAIN, Calibrated, main_methods
from pipeline.benchmark.report import Measured, Report
from pipeline.benchmark.summary import write_summary
from pipeline.report.provenance import hardware
from tests.benchmark_runs import SETTING, part_runs

TUNED = {1: {EXACT: {4: 90.0, 6: 100.0}}, 8: {EXACT: {2: 50.0}}}


def report(*parts):
    measured = [Measured(part, figures_of(part)) for part in parts]
    return Report(measured, TUNED, main_methods(Calibrated()), {"Curves": "curves.png"}, "")


def test_the_report_says_what_ran_and_what_could_not():
    text = report(part_runs(), part_runs(batch=8)).markdown("2026-11-23")
    for part in (
        "# Decoding methods on the reference pair, 2026-11-23",
        "main-batch1, main-batch8: `python x.py`, commit abc",
        "bonus token excluded",
        "| 8 | exact | 4 | 2.00 [2.00, 2.00] |",
        "- main-batch1, impossible: `ValueError: no`",
        "![Curves](curves.png)",
        "| exact | **6** (4: 90, 6: 100) | **2** (2: 50) |",
        "- *oracle anchors*: upper bound",
    ):
        assert part in text, part
    assert "## Ablations" not in text


def test_sections_come_with_their_parts():
    text = report(
        part_runs("ablations"),
        part_runs("frontier"),
        part_runs("exactness"),
        part_runs("exactness", batch=8),
    ).markdown("2026-11-23")
    for title in ("## Ablations", "## Facts kept against speed", "## Exactness"):
        assert title in text
    assert "Plain captions of batch 8 that equal those of batch 1: 4 of 4." in text
    assert "## Speed\n" not in text


def test_a_report_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no results"):
        report().setting()


def test_every_table_has_as_many_cells_as_its_header():
    figures = [*figures_of(part_runs()), *figures_of(part_runs(batch=8))]
    for make in (
        tables.speed_table,
        tables.fidelity_table,
        tables.time_table,
        tables.sweep_table,
        tables.in_flight_table,
    ):
        rows = make(figures).splitlines()
        assert len(rows) > 2
        assert len({row.count(" |") for row in rows[2:]}) == 1
        assert rows[0].count("|") == rows[2].count("|")


def test_throughput_over_batch_sizes_is_against_the_smallest():
    figures = [*figures_of(part_runs()), *figures_of(part_runs(batch=8))]
    assert "| exact | 20 (1.00x) | 20 (1.00x) |" in tables.in_flight_table(figures)


def test_the_terminal_table_has_a_line_for_each_method():
    text = tables.terminal_table(figures_of(part_runs()))
    assert [line.split()[1] for line in text.splitlines()[2:]] == [PLAIN, EXACT, LVSPEC]


def test_the_summary_has_its_keys_and_keeps_those_of_others(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"cluster": {"videos_per_min": 7}, "commit": "old"}))
    figures = [*figures_of(part_runs()), *figures_of(part_runs(batch=8))]
    write_summary(path, figures, SETTING)
    summary = json.loads(path.read_text())
    assert summary["cluster"] == {"videos_per_min": 7}
    assert (summary["commit"], summary["date"]) == ("abc", "2026-11-23")
    assert summary["hardware"] == "a machine"
    assert list(summary["decoding"]) == [PLAIN, EXACT, LVSPEC]
    for batches in summary["decoding"].values():
        assert list(batches) == ["1", "8"]
        for numbers in batches.values():
            assert {
                "speedup", "tokens_per_s", "clips_per_min", "mean_accepted_length", "facts_kept",
                "facts_kept_low", "facts_kept_high", "n",
            } <= set(numbers)  # fmt: skip
    assert summary["decoding"][LVSPEC]["8"]["n"] == 2


def test_a_first_summary_needs_no_file(tmp_path):
    write_summary(tmp_path / "summary.json", figures_of(part_runs()), SETTING)
    assert "decoding" in json.loads((tmp_path / "summary.json").read_text())


@pytest.mark.parametrize(
    ("names", "said"), [([], "no GPU"), (["H100", "H100", "L4"], "2 x H100, 1 x L4")]
)
def test_the_hardware_is_what_torch_sees(monkeypatch, names, said):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])
    assert hardware().endswith(f" cores, {said}")
