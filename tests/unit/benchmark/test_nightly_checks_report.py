"""The nightly report's parts on verification and mutated videos say what was measured."""

import json
from pathlib import Path

from pipeline.benchmark.nightly_report import markdown, write_summary
from pipeline.benchmark.nightly_results import (
    MutationRun,
    MutationsPart,
    NightlyResults,
    StepUse,
    VerifyPart,
    load_results,
    save_part,
)
from pipeline.benchmark.raw_parts import PartSetting

SETTING = PartSetting("abc", "2026-11-28", "2 cores", "python x", 1.0, 1.5, "")
VERIFY = VerifyPart(
    SETTING, 1_000_000, 2_500_000_000, StepUse(10.0, 500_000_000), StepUse(40.0, 900_000_000)
)
MUTATIONS = MutationsPart(
    SETTING,
    MutationRun(
        num_videos=10,
        num_captions=3,
        failures_by_code={"corrupt": 5, "timeout": 2},
        failures_by_kind={"poison": 5, "transient": 2},
        failed_by_mutation={"splice": 7},
        videos_by_mutation={"header": 2, "splice": 8},
        problems=(),
        longest_wait_s=1.25,
        elapsed_s=60.0,
        peak_rss_bytes=900_000_000,
    ),
)


def test_parts_are_read_back_and_told(tmp_path: Path) -> None:
    for part in (VERIFY, MUTATIONS):
        save_part(tmp_path, part)
    results = load_results(tmp_path)
    assert results == NightlyResults(verify=VERIFY, mutations=MUTATIONS)
    text = markdown(results, "2026-11-28")
    for line in (
        "1,000,000 captions and their failures, 2.50 GB:",
        "| verify | 10.0 | 100,000 | 500 |",
        "| compact | 40.0 | 25,000 | 900 |",
        "10 videos, 10 rows, the data set is whole; the longest wait was 1.2 s",
        "| captioned |  | 3 |",
        "| corrupt | poison | 5 |",
        "| splice | 8 | 7 |",
        "| header | 2 | 0 |",
    ):
        assert line in text, line


def test_the_summary_has_their_figures_and_keeps_others(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"decoding": 1, "nightly": {"rerun": {"median_s": 2.0}}}))
    write_summary(path, NightlyResults(verify=VERIFY, mutations=MUTATIONS))
    summary = json.loads(path.read_text())
    assert summary["decoding"] == 1
    assert summary["nightly"]["rerun"] == {"median_s": 2.0}
    assert summary["nightly"]["verify"]["verify"]["rows_per_s"] == 100_000
    assert summary["nightly"]["mutations"]["failures_by_code"] == {"corrupt": 5, "timeout": 2}
    assert summary["nightly"]["mutations"]["is_whole"] is True
