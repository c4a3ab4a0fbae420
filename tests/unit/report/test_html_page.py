"""Guards the report's page: figures of the rows, hostile text that stays text, bounded samples."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from dataset_rows import CREATED_AT, LABELS, STATS, clip, record, video

from pipeline.config import OutputConfig, StorageConfig
from pipeline.dataset.commit import Committer
from pipeline.dataset.layout import Layout, Table
from pipeline.dataset.parts import encode_part
from pipeline.dataset.run_rows import NoSuchRunError
from pipeline.dataset.schema import caption_row, failure_row
from pipeline.dataset.summary import SummaryBuilder
from pipeline.records import (
    CaptionRecord,
    Failure,
    PlainComparison,
    ShadowComparison,
    Stage,
    TokenDecision,
)
from pipeline.report.html_facts import ReportFacts, report_facts
from pipeline.report.html_frames import KeyFrame, KeyFrames
from pipeline.report.html_page import report_page
from pipeline.storage import Storage, storage_for

HOSTILE = """<script>hacked()</script>"'><img src=x onerror=hacked()>{{ 7*7 }}&amp;</style>"""
TOKENS = (
    TokenDecision(1, "correction", 1, None, None, "A"),
    TokenDecision(2, "relaxed", 3, 0.1, 0.2, " red"),
    TokenDecision(2, "exact", 2, 0.9, 0.9, " ball"),
)


class Dataset:
    """A data set to fill."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout.of(str(folder), LABELS.config_digest)
        self.storage: Storage = storage_for(self.layout.uri, StorageConfig())

    def commit(self, *outcomes: CaptionRecord | Failure, run_id: str = "run-1") -> None:
        labels = replace(LABELS, run_id=run_id)
        output = OutputConfig(uri="unused")
        with Committer(self.storage, self.layout, output, run_id) as writer:
            for outcome in outcomes:
                if isinstance(outcome, Failure):
                    writer.add_failure(failure_row(outcome, labels, CREATED_AT))
                else:
                    writer.add_caption(caption_row(outcome, labels, CREATED_AT))

    def end(self, **metrics: float | str) -> None:
        uri = self.layout.run_file_uri("run-1", "metrics.json")
        self.storage.put(uri, json.dumps(metrics).encode())

    def facts(self, max_clips: int = 200) -> ReportFacts:
        return report_facts(self.storage, self.layout, "run-1", max_clips)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


class Tags(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside):
            self.text += data


def failure(name: str, code: str = "truncated", message: str = "half a file") -> Failure:
    return Failure(video(name), None, Stage.DECODE, code, message, 1)


def test_facts_are_the_sums_of_the_rows_and_the_runs_own_figures(dataset: Dataset) -> None:
    outcomes = [
        record(clip("a"), relaxed_share=0.5, shadow=ShadowComparison(True, 9, 0.75)),
        record(clip("b"), plain=PlainComparison(True, 0.0, 1.0, 11), relaxed_share=0.25),
        failure("c"),
    ]
    dataset.commit(*outcomes)
    dataset.commit(record(clip("z")), run_id="run-2")
    dataset.end(elapsed_s=65.0, captioner_wait_share=0.25, num_captioner_losses=2)
    facts = dataset.facts()
    summary = SummaryBuilder()
    for outcome in outcomes:
        summary.add(outcome)
    assert facts.summary == replace(
        summary.build(elapsed_s=65.0), captioner_wait_share=0.25, num_captioner_losses=2
    )
    ((_, stretch),) = facts.timeline
    assert (stretch.relaxed_share, stretch.facts_kept) == (0.375, 0.75)
    page = Tags(report_page(facts, KeyFrames())).text
    for part in ("1 min 05 s", "33.3%", "truncated", "half a file", "25.0% of its time"):
        assert part in page
    assert re.search(r"7\.0 drafted|1\.75 drafted tokens a target step", page)


def test_a_run_that_was_cut_short_is_told_as_such(dataset: Dataset) -> None:
    dataset.commit(record(clip("a")))
    page = Tags(report_page(dataset.facts(), KeyFrames())).text
    assert "was killed before its end" in page
    assert "from start to end" not in page
    assert "waits for frames" not in page, "no row tells that"


@pytest.mark.parametrize(
    ("metrics", "wanted"),
    [
        ({"status": "done"}, None),
        ({}, None),
        ({"status": "over_budget"}, "more failures than its budget"),
        ({"status": "over_budget", "ended_early": True}, "ended early"),
        ({"status": "interrupted"}, "was interrupted"),
        ({"status": "failed"}, "by an error"),
    ],
)
def test_how_the_run_ended_is_told_if_not_well(
    dataset: Dataset, metrics: dict, wanted: str | None
) -> None:
    dataset.commit(record(clip("a")))
    dataset.end(elapsed_s=1.0, **metrics)
    page = Tags(report_page(dataset.facts(), KeyFrames())).text
    assert ("This run" in page) is bool(wanted)
    assert (wanted or "") in page


def test_a_run_without_captions_or_rows_at_all(dataset: Dataset) -> None:
    dataset.commit(failure("a"))
    page = Tags(report_page(dataset.facts(), KeyFrames())).text
    assert "This run wrote no caption." in page
    with pytest.raises(NoSuchRunError, match="no run run-9"):
        report_facts(dataset.storage, dataset.layout, "run-9", 10)


def test_plain_decoding_has_no_histogram_of_drafts(dataset: Dataset) -> None:
    made = record(clip("a"))
    stats = replace(STATS, drafted_tokens=0, accepted_tokens=0, rejected_by_cause={})
    dataset.commit(replace(made, caption=replace(made.caption, stats=stats)))
    page = Tags(report_page(dataset.facts(), KeyFrames())).text
    assert "Accepted tokens" not in page
    assert "rejected" not in page


def test_hostile_text_is_text_everywhere(dataset: Dataset) -> None:
    """In captions, tokens, kinds, file names, causes, messages, configuration and frame errors."""
    token = TokenDecision(1, HOSTILE, 1, 0.5, 0.9, HOSTILE)
    stats = replace(STATS, rejected_by_cause={HOSTILE: 2})
    name = HOSTILE.replace("/", "∕")
    whole, sampled = record(clip(name), text=HOSTILE), record(clip(name, 1, 2), text=HOSTILE)
    sampled = replace(
        sampled,
        caption=replace(sampled.caption, stats=stats, decisions=(token,), relaxed_share=0.5),
    )
    dataset.commit(whole, sampled)
    row = failure_row(failure(name, message=HOSTILE), LABELS, CREATED_AT)
    row |= {"code": HOSTILE, "kind": HOSTILE}  # of another version, or another program
    part = encode_part(Table.FAILURES, [row], "")
    dataset.storage.put(dataset.layout.part_uri(Table.FAILURES, 1), part)
    dataset.end(elapsed_s=1.0)
    for file in ("config.yaml", "versions.json"):
        dataset.storage.put(dataset.layout.run_file_uri("run-1", file), HOSTILE.encode())
    frames = KeyFrames(unreadable={whole.clip_id: HOSTILE}, stopped=HOSTILE)
    benign = Dataset(Path(dataset.layout.uri).parent / "benign")
    benign.commit(record(clip("a")), record(clip("a", 1, 2), decisions=TOKENS), failure("b"))
    tags = Tags(report_page(dataset.facts(), frames))
    calm = Tags(report_page(benign.facts(), KeyFrames()))
    assert tags.text.count(HOSTILE) >= 8
    assert {tag for tag, _ in tags.tags} - {tag for tag, _ in calm.tags} <= {"details", "u", "pre"}
    assert not [tag for tag, _ in tags.tags if tag == "img"]
    assert sum(tag == "script" for tag, _ in tags.tags) == 1
    names = {name for _, attributes in tags.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    assert "49" not in tags.text, "no text is a template"


def test_secrets_of_urls_are_masked(dataset: Dataset) -> None:
    url = "https://u:hunter2@host/a.mp4?X-Amz-Signature=s1gned"
    dataset.commit(failure("a", message=f"can't open {url}"))
    dataset.storage.put(dataset.layout.run_file_uri("run-1", "config.yaml"), url.encode())
    page = report_page(dataset.facts(), KeyFrames(stopped=url))
    assert "hunter2" not in page
    assert "s1gned" not in page


def test_the_page_asks_for_nothing(dataset: Dataset) -> None:
    made = record(clip("a"), decisions=TOKENS, relaxed_share=0.5)
    dataset.commit(made)
    frame = KeyFrame("data:image/jpeg;base64,AAAA", 1.25)
    tags = Tags(report_page(dataset.facts(), KeyFrames(by_clip={made.clip_id: (frame,)}))).tags
    loaded = [
        value
        for tag, attributes in tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "data") or (name == "href" and tag != "a")
    ]
    assert set(loaded) == {"data:,", frame.data_uri}
    assert all(str(attributes["href"]).startswith("#") for tag, attributes in tags if tag == "a")


def test_the_gallery_is_a_sample_with_tokens_first(dataset: Dataset) -> None:
    """At most so many, and the same ones every time, however the rows lie."""
    plain = [record(clip(f"plain-{index}")) for index in range(30)]
    sampled = [record(clip(f"tokens-{index}"), decisions=TOKENS) for index in range(6)]
    dataset.commit(*plain[:15], *sampled, *plain[15:])
    facts = dataset.facts(max_clips=10)
    names = [made.spec.video.uri for made in facts.gallery]
    assert len(names) == 10
    assert sum("tokens-" in name for name in names) == 6
    assert names == sorted(names)
    kept = {made.clip_id for made in facts.gallery if not made.caption.decisions}
    assert kept == set(sorted(made.clip_id for made in plain)[:4])
    assert all(made.caption.decisions for made in dataset.facts(max_clips=3).gallery)
    assert not dataset.facts(max_clips=0).gallery
    page = Tags(report_page(facts, KeyFrames())).text
    assert "10 of 10 clips, a sample of 36" in page


def test_failures_have_a_few_examples_of_each_cause(dataset: Dataset) -> None:
    many = [failure(f"a-{index}") for index in range(12)]
    dataset.commit(*many, failure("b", code="empty"))
    first, second = dataset.facts().causes
    assert (first.code, first.count, len(first.examples)) == ("truncated", 12, 5)
    assert (second.code, second.count, len(second.examples)) == ("empty", 1, 1)
    assert "5 of 12" in Tags(report_page(dataset.facts(), KeyFrames())).text
