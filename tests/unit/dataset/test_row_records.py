"""Guards that rows become the records that they were made of: reports add up what runs did."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dataset_rows import CREATED_AT, LABELS, clip, record, video

from pipeline.dataset.row_records import caption_record, failure_record
from pipeline.dataset.schema import caption_row, failure_row
from pipeline.records import (
    CaptionRecord,
    Failure,
    PlainComparison,
    ShadowComparison,
    Stage,
    TokenDecision,
)

DECISIONS = (
    TokenDecision(7, "correction", 7, None, None, " A"),
    TokenDecision(8, "relaxed", 9, 0.25, 0.5, " red"),
)


@pytest.mark.parametrize(
    "made",
    [
        record(clip("a")),
        record(clip("a", 1, 3), plain=PlainComparison(False, 0.0, 0.4, 12)),
        record(clip("a"), shadow=ShadowComparison(True, 9, 0.75), relaxed_share=0.5),
        record(clip("a"), shadow=ShadowComparison(False, 9), decisions=DECISIONS),
    ],
)
def test_a_caption_row_and_back(made: CaptionRecord) -> None:
    row = caption_row(made, LABELS, CREATED_AT)
    again = caption_record(row)
    assert caption_row(again, LABELS, CREATED_AT) == row
    ids = tuple(decision.token_id for decision in made.caption.decisions)
    assert again.caption == replace(made.caption, token_ids=ids)


def test_a_row_of_before_a_column_was_there() -> None:
    row = caption_row(record(clip("a")), LABELS, CREATED_AT)
    later = ("scoring_s", "relaxed_share", "shadow_equal", "shadow_facts_kept", "tokens")
    again = caption_record(row | dict.fromkeys(later))
    assert again.caption.stats.scoring_s == 0.0
    assert again.caption.shadow is None
    assert again.caption.decisions == ()


@pytest.mark.parametrize("spec", [clip("a", 1, 2), None])
def test_a_failure_row_and_back(spec) -> None:
    failure = Failure(video("a"), spec, Stage.PROBE, "timeout", "no answer", 2)
    assert failure_record(failure_row(failure, LABELS, CREATED_AT)) == failure
