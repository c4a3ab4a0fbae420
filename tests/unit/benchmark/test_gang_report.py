"""Guards the gang benchmark's figures, tables, summary and raw files, on results made by hand."""

import json
from dataclasses import replace

import pytest

from pipeline.benchmark import gang_report
from pipeline.benchmark.gang_memory import MemoryUse, PeakMemory, Rss
from pipeline.benchmark.gang_overhead import DECODE, LAYERS, LINK, PREFILL, Stopwatch
from pipeline.benchmark.gang_report import OverheadFigures, markdown, summary_of, write
from pipeline.benchmark.gang_results import (
    FROM_PRETRAINED,
    GangResults,
    GangStart,
    MemoryPart,
    MemoryRun,
    Overhead,
    OverheadPart,
    RankTime,
    Recovery,
    RecoveryPart,
    StartPart,
    load_results,
    save_part,
)
from pipeline.benchmark.raw_parts import PartSetting
from tests.benchmark_runs import BLUE, clip_run

MIB = 1 << 20
SETTING = PartSetting("abc", "2026-11-24", "a machine", "python x.py", 1.5, 2.5, "tests ran beside")
USE = MemoryUse(
    before=Rss(400 * MIB, 300 * MIB, 0),
    peak=1900 * MIB,
    most_anonymous=1500 * MIB,
    most_file=500 * MIB,
    after=Rss(1300 * MIB, 320 * MIB, 0),
    held=900 * MIB,
    largest=100 * MIB,
    load_s=2.0,
)


def overhead(num_ranks=1, gang_s=2.2):
    """10 clips; the gang is slower by a tenth, and one text differs."""
    own = tuple(clip_run(n, decode_s=2.0) for n in range(10))
    gang = [clip_run(n, decode_s=gang_s) for n in range(9)]
    gang.append(clip_run(9, text=BLUE, tokens=40, decode_s=2 * gang_s))
    times = (
        RankTime(DECODE, LINK, 0.22, 1000),
        RankTime(DECODE, LAYERS, 6.05, 2000),
        RankTime(PREFILL, LAYERS, 5.0, 10),
    )
    return Overhead(num_ranks, "exact, K 4", 1, own, tuple(gang), times if num_ranks > 1 else ())


def results():
    start = GangStart(2, 0.1, 2.0, 3.0, 0.5, 1.0, 0.2, 7.0)
    recovery = Recovery("SIGKILL of rank 0", 0.1, 8.0, 10.0, 4, 3, "rank 0 of 2 is lost: it died")
    return GangResults(
        MemoryPart(
            SETTING, 2 << 30, (MemoryRun(2, (USE, USE)), MemoryRun(FROM_PRETRAINED, (USE,)))
        ),
        OverheadPart(SETTING, (overhead(), overhead(2))),
        StartPart(SETTING, (start,)),
        RecoveryPart(SETTING, 5.0, 1.5, (recovery,)),
    )


def test_growth_counts_all_kinds_of_memory_and_the_bound_is_part_tensor_and_allowance():
    assert USE.growth == 1200 * MIB
    assert USE.bound(MIB) == 1001 * MIB
    assert USE.is_within()
    assert USE.is_within(200 * MIB)
    assert not USE.is_within(199 * MIB)


def test_the_peak_is_seen_after_it_is_over():
    """64 MiB that come and go; what the process took before does not count."""
    earlier = bytearray(200 * MIB)
    del earlier
    with PeakMemory() as memory:
        held = bytearray(b"x") * (64 * MIB)
        del held
    assert 60 * MIB < memory.peak - memory.before.total < 150 * MIB
    assert memory.after.total - memory.before.total < 30 * MIB


def test_time_is_compared_per_token():
    """The longer caption takes longer and is not slower."""
    figures = OverheadFigures.of(overhead())
    for estimate in (figures.ratio, figures.typical):
        assert estimate.value == pytest.approx(1.1)
        assert (estimate.low, estimate.high) == pytest.approx((1.1, 1.1))
    assert figures.num_same == 9


def test_a_pause_moves_the_totals_and_not_the_typical_clip():
    run = overhead()
    paused = (replace(run.gang[0], decode_s=20.0), *run.gang[1:])
    figures = OverheadFigures.of(replace(run, gang=paused))
    assert figures.ratio.value > 1.8
    assert figures.typical.value == pytest.approx(1.1)


def test_clips_of_one_turn_are_one_sample():
    """At batch 4 ten clips are three turns; a turn that is slow on one side is one value."""
    run = replace(overhead(), batch=4)
    slow = tuple(replace(each, decode_s=20.0) for each in run.gang[:4])
    figures = OverheadFigures.of(replace(run, gang=slow + run.gang[4:]))
    assert figures.ratio.num_samples == 3
    assert figures.typical.value == pytest.approx(1.1)
    assert figures.typical.high == pytest.approx(10.0)


def test_there_is_no_report_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="no results"):
        write(GangResults(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_timed_within_something_timed_counts_once():
    watch = Stopwatch()
    watch.phase = DECODE
    with watch.timing(LINK), watch.timing(LAYERS):
        pass
    assert [(t.phase, t.what, t.calls) for t in watch.times()] == [(DECODE, LINK, 1)]
    watch.reset()
    assert watch.times() == ()


def test_a_start_adds_up():
    start = results().start.starts[0]
    assert start.rest_s == pytest.approx(0.2)


def test_the_report_has_every_part():
    text = markdown(results(), "2026-11-24")
    assert "- memory: `python x.py`, commit abc, 2026-11-24, a machine; load average 1.5" in text
    assert "tests ran beside" in text
    assert "| 2 ranks | 1 | 900 | 1200 | 2024 | yes | 1100 | 200 | 920 | 2.0 |" in text
    assert "| from_pretrained | 0 | 900 | 1200 | - | - |" in text
    assert "| 1 | exact, K 4 | 1 | 1.100 [1.100, 1.100] |" in text
    assert "9 of 10 |" in text
    # 24.2 s of decoding; what was prefilled is no part of it.
    assert "| exact, K 4 | 1 | 0.9% (220 x 1000) | 25.0% (3025 x 2000) | - | - | 74.1% |" in text
    assert "| 2 | 0.10 | 2.00 | 3.00 | 0.50 | 1.00 | 0.20 | 0.20 | 7.00 |" in text
    assert "| SIGKILL of rank 0 | 0.1 | 8.0 | 10.0 | 3 of 4 | rank 0 of 2 is lost" in text


def test_a_missed_bound_is_plain_to_see():
    part = results().memory
    missed = replace(part, runs=(MemoryRun(2, (replace(USE, peak=9000 * MIB),)),))
    assert "| NO |" in gang_report.memory_section(missed)
    assert summary_of(GangResults(memory=missed))["memory"]["2 ranks"][0]["within_bound"] is False


def test_parts_that_did_not_run_are_left_out():
    text = markdown(GangResults(start=results().start), "2026-11-24")
    assert "## Start" in text
    assert "## Recovery" not in text
    assert list(summary_of(GangResults(start=results().start))) == ["start"]


def test_parts_come_back_from_their_files(tmp_path):
    assert load_results(tmp_path) == GangResults()
    all_parts = results()
    for part in (all_parts.memory, all_parts.overhead, all_parts.start, all_parts.recovery):
        save_part(tmp_path, part)
    assert load_results(tmp_path) == all_parts
    assert not list(tmp_path.glob("*-batch*.json")), "those are the other benchmark's"


def test_the_summary_keeps_the_other_keys(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"decoding": {"a": 1}, "gang": "old"}))
    report = write(results(), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["decoding"] == {"a": 1}
    assert set(summary["gang"]) == {"memory", "overhead", "start", "recovery"}
    assert summary["gang"]["overhead"]["runs"][0]["decode_time"]["value"] == pytest.approx(1.1)
    assert report.read_text().startswith("# Gangs, ")


def test_the_command_is_told_without_the_note():
    setting = PartSetting.now(
        "benchmark_gang.py",
        ["--parts", "start", "--note", "a b", "--scratch", "/x", "--clips", "4"],
        1.0,
        "a b",
    )
    assert setting.command == "python jobs/benchmark_gang.py --parts start --clips 4"
    assert setting.note == "a b"
