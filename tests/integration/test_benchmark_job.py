"""The benchmark's command: parts on the reference pair, and reports from what lies there."""

import json
import sys

import pytest

from jobs import benchmark
from pipeline.benchmark.methods import EXACT, PLAIN
from pipeline.benchmark.runs import load, save
from tests.benchmark_runs import part_runs

MAIN_METHODS = benchmark.main_methods


@pytest.fixture
def run(tmp_path, monkeypatch):
    def run(*arguments):
        command = ["benchmark.py", "--raw", tmp_path / "raw", "--output", tmp_path, *arguments]
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in command])
        benchmark.main()

    return run


def few_methods(calibrated):
    return [m for m in MAIN_METHODS(calibrated) if m.name in (PLAIN, EXACT)]


def test_parts_leave_results_and_a_report_is_made_of_them(run, tmp_path, monkeypatch, capsys):
    """Two clips of real files through the real pair: tuned, measured, reported, and resumed."""
    monkeypatch.setattr(benchmark, "main_methods", few_methods)
    monkeypatch.setattr(benchmark, "QUICK", benchmark.Sizes(many=2, few=1, tuning=1, exactness=1))
    arguments = ("--quick", "--dtype", "float32", "--batch", "1", "--parts", "tuning", "main")
    run(*arguments)
    part = load(tmp_path / "raw" / "main-batch1.json")
    assert [(m.method, len(m.runs)) for m in part.methods] == [(PLAIN, 2), (EXACT, 2)]
    assert [r.text for r in part.methods[0].runs] == [r.text for r in part.methods[1].runs]
    assert part.setting.dtype == "float32"
    tuned = json.loads((tmp_path / "raw" / "tuning.json").read_text())["1"][EXACT]
    assert str(part.methods[1].num_speculative_tokens) == max(tuned, key=tuned.__getitem__)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["decoding"][EXACT]["1"]["same_text"] == 1.0
    (report,) = tmp_path.glob("*-decoding.md")
    assert "| 1 | exact |" in report.read_text()
    assert "main, batch 1, clips: 2/2" in capsys.readouterr().out
    run(*arguments, "--resume")
    assert "main, batch 1: already there" in capsys.readouterr().out
    assert load(tmp_path / "raw" / "main-batch1.json") == part


def test_a_report_alone_needs_no_models(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "Bench", None)
    run("--parts")
    assert "no results in" in capsys.readouterr().out
    for batch in (1, 8):
        save(tmp_path / "raw", part_runs(batch=batch))
    save(tmp_path / "raw", part_runs("frontier"))
    run("--parts")
    (report,) = tmp_path.glob("*-decoding.md")
    text = report.read_text()
    assert "## Batch sizes" in text
    # Plots need matplotlib, of the extra `bench`; what they show is tested in test_series.
    plots = sorted(path.name for path in tmp_path.glob("*.png"))
    assert all(f"({name})" in text for name in plots)
    assert bool(plots) is ("no plots" not in capsys.readouterr().out)


def test_clips_of_each_batch_size_fill_some_turns():
    sizes = benchmark.Sizes(many=200, few=48, tuning=12, exactness=48)
    assert [sizes.main(batch) for batch in (1, 2, 4, 8, 16)] == [200, 48, 48, 200, 96]
    assert [sizes.tuned(batch) for batch in (1, 4, 16)] == [12, 12, 32]
