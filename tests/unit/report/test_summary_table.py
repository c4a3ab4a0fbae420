"""Guards what a person reads at the end of a run."""

from dataclasses import replace

from pipeline.dataset.summary import SummaryBuilder
from pipeline.records import CaptionerTiming, ShadowComparison
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
        "2.00: the mean accepted length, and the target's own",
        "3 (mismatch 100.0%)",
        "0.2 s: draft 8.0%, verify 80.0%, scoring 0.00%, rest 12.0%",
    ):
        assert part in text
    assert "lambda" not in text
    assert "exact decoding" not in text


def test_table_of_a_loose_run_tells_what_was_let_pass_and_what_it_changed():
    summary = SummaryBuilder()
    for lambda_, equal in ((0.7, True), (0.5, False)):
        record = caption_record(relaxed_share=lambda_, shadow=ShadowComparison(equal, 10, 0.9))
        causes = {"anchor": 3, "guard": 1}
        stats = replace(
            record.caption.stats, relaxed_tokens=2, shifted_tokens=1, rejected_by_cause=causes
        )
        summary.add(replace(record, caption=replace(record.caption, stats=stats)))
    text = summary_table(summary.build(elapsed_s=1.0), "out/abc")
    for part in (
        "50.0% relaxed, 25.0% shifted; lambda 0.5 to 0.7",
        "8 (anchor 75.0%, guard 25.0%)",
        "same text for 50.0% [9.5%, 90.5%] of 2 clips, 0.900 times as long",
        "facts kept at lambda 0.7",
        "facts kept at lambda 0.5",
        "90.00% [",
    ):
        assert part in text


def test_table_of_plain_decoding_says_nothing_of_drafts():
    record = caption_record()
    stats = replace(record.caption.stats, drafted_tokens=0, accepted_tokens=0)
    summary = SummaryBuilder()
    summary.add(replace(record, caption=replace(record.caption, stats=stats)))
    text = summary_table(summary.build(elapsed_s=1.0), "out/abc")
    assert "accepted" not in text
    assert "decoding time" in text


def test_table_of_an_empty_run_has_no_rates():
    text = summary_table(SummaryBuilder().build(elapsed_s=0.1), "out/abc")
    assert "tokens" not in text


def test_the_last_line_makes_the_report_and_can_be_copied():
    """Whole and quoted, however long the address is."""
    uri = "s3://bucket/" + "a folder/" * 20 + "abc"
    text = summary_table(SummaryBuilder().build(elapsed_s=0.1), uri)
    assert text.splitlines()[-1] == f"report: python jobs/report.py '{uri}'"
