"""The summary is arithmetic: totals, ratios of totals, and an interval that contains the truth."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from dataset_rows import STATS, clip, record, video

from pipeline.dataset.summary import SummaryBuilder, add_histograms, summarize_plain
from pipeline.records import CaptionerTiming, Failure, PlainComparison, ShadowComparison, Stage


def test_totals_and_ratios() -> None:
    """Ratios are of totals: means of means would weigh short captions as much as long ones."""
    builder = SummaryBuilder()
    builder.add(record(clip("a")))
    long = record(clip("b"))
    stats = replace(STATS, output_tokens=89, decode_s=1.5, target_steps=16, accepted_tokens=53)
    stats = replace(stats, accepted_histogram=(0, 1))
    builder.add(replace(long, caption=replace(long.caption, stats=stats)))
    for code in ("truncated", "not_found", "truncated"):
        builder.add(Failure(video("c"), None, Stage.READ, code, "", 1))
    builder.add_timing(CaptionerTiming(waited_s=1.0, busy_s=3.0))
    summary = builder.build(elapsed_s=10.0)
    assert (summary.num_captions, summary.num_failures, summary.num_clips) == (2, 3, 5)
    assert summary.failures_by_code == {"not_found": 1, "truncated": 2}
    assert summary.output_tokens == 100
    assert summary.output_tokens_per_s == pytest.approx(50.0)
    assert summary.mean_accepted_length == pytest.approx(3.0)
    assert summary.accepted_histogram == (1, 2, 0, 2)
    assert summary.video_decode_s_per_clip == pytest.approx(0.25)
    assert summary.captioner_wait_share == pytest.approx(0.25)
    assert summary.failure_share == pytest.approx(0.6)
    assert summary.plain is None
    assert summary.shadow is None
    assert json.loads(json.dumps(summary.as_json()))["elapsed_s"] == 10.0


def test_what_loose_decoding_did() -> None:
    """Causes, seconds and lambdas of all captions; shadows against their own clips alone."""
    builder = SummaryBuilder()
    builder.add(record(clip("a"), shadow=ShadowComparison(True, 11, 1.0), relaxed_share=0.7))
    builder.add(record(clip("b"), shadow=ShadowComparison(False, 33, 0.5), relaxed_share=0.2))
    builder.add(record(clip("c"), relaxed_share=0.5))
    summary = builder.build(elapsed_s=1.0)
    assert summary.rejected_by_cause == {"anchor": 3, "mismatch": 6}
    assert (summary.relaxed_tokens, summary.shifted_tokens, summary.anchor_tokens) == (6, 3, 9)
    assert (summary.correction_tokens, summary.bonus_tokens) == (9, 3)
    assert summary.tokens_per_target_step == summary.mean_accepted_length + 1
    assert (summary.relaxed_share_min, summary.relaxed_share_max) == (0.2, 0.7)
    assert summary.scoring_s == pytest.approx(3 * STATS.scoring_s)
    assert summary.decode_s == pytest.approx(3 * STATS.decode_s)
    shadow = summary.shadow
    assert shadow is not None
    assert (shadow.num_clips, shadow.equal_share, shadow.length_ratio) == (2, 0.5, 0.5)
    assert 0 < shadow.equal_share_low < 0.5 < shadow.equal_share_high < 1
    loosest, tightened = shadow.facts_kept
    assert (loosest.relaxed_share, loosest.num_clips, loosest.mean) == (0.7, 1, 1.0)
    assert (tightened.relaxed_share, tightened.num_clips, tightened.mean) == (0.2, 1, 0.5)
    assert tightened.low < 0.5 < tightened.high


def test_shadows_without_facts_tell_of_the_text_alone() -> None:
    builder = SummaryBuilder()
    builder.add(record(clip("a"), shadow=ShadowComparison(True, 11), relaxed_share=0.7))
    shadow = builder.build(elapsed_s=1.0).shadow
    assert shadow is not None
    assert shadow.facts_kept == ()


def test_nothing_is_a_summary_too() -> None:
    """A night without new videos ends with zeros, not with a division."""
    summary = SummaryBuilder().build(elapsed_s=0.0)
    assert summary.num_clips == 0
    assert summary.failure_share == summary.mean_accepted_length == 0.0
    assert summary.tokens_per_target_step == 0.0
    assert summary.relaxed_share_min is None


def test_histograms_of_different_length_add_up() -> None:
    assert add_histograms([1, 2, 3], (4,)) == [5, 2, 3]


def test_the_plain_comparison_is_paired() -> None:
    """Clips differ much in length, the speed-up little: the interval must be of the pairs."""
    rng = np.random.default_rng(1)
    seconds = rng.uniform(0.1, 10.0, 200)
    ratio = rng.normal(2.0, 0.05, 200)
    compared = [
        (
            replace(STATS, output_tokens=100, decode_s=float(s)),
            PlainComparison(
                equal=index % 4 != 0, prefill_s=0.1, decode_s=float(s * r), output_tokens=100
            ),
        )
        for index, (s, r) in enumerate(zip(seconds, ratio, strict=True))
    ]
    plain = summarize_plain(compared)
    assert plain.equal_share == 0.75
    assert plain.speed_up_low < plain.speed_up < plain.speed_up_high
    assert plain.speed_up == pytest.approx(2.0, abs=0.02)
    assert plain.speed_up_high - plain.speed_up_low < 0.05
    assert summarize_plain(compared) == plain
    assert set(asdict(plain)) == {
        "num_clips",
        "equal_share",
        "speed_up",
        "speed_up_low",
        "speed_up_high",
    }
