"""Guards what a person reads at the end of a run."""

from pipeline.dataset.summary import SummaryBuilder
from pipeline.records import CaptionerTiming
from pipeline.report.summary_table import summary_table
from tests.make_records import caption_record, failure


def test_table_shows_counts_speculation_and_failures_by_cause():
    summary = SummaryBuilder()
    summary.add(caption_record())
    summary.add(failure(code="truncated"))
    summary.add_timing(CaptionerTiming(waited_s=1.0, busy_s=3.0))
    text = summary_table(summary.build(elapsed_s=65.0), "s3://bucket/captions/abc")
    for part in (
        "s3://bucket/captions/abc",
        "1 in 1 min 05 s",
        "1 (50.0%)",
        "truncated",
        "1.00 drafted tokens a target step",
        "25.0% of its time",
    ):
        assert part in text


def test_table_of_an_empty_run_has_no_rates():
    text = summary_table(SummaryBuilder().build(elapsed_s=0.1), "out/abc")
    assert "tokens" not in text
