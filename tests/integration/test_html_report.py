"""Guards the report as people meet it: a real run's page, opened, searched and filtered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset
import pytest
from dataset_rows import LABELS, clip, record
from playwright.sync_api import Browser, Page, expect

from jobs import report
from pipeline.config import OutputConfig, StorageConfig
from pipeline.dataset.commit import Committer
from pipeline.dataset.layout import Layout
from pipeline.dataset.schema import caption_row
from pipeline.records import TokenDecision
from pipeline.storage import storage_for
from tests.browser import Watched, open_browser, watched_page
from tests.dataset_rows import CREATED_AT
from tests.integration.conftest import run_job

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten videos by the reference pair, loosely, and six damaged ones."""
    output = tmp_path_factory.mktemp("captions")
    done = run_job(
        *("--recipe", "reference", "--runner", "local", "--speculation.method", "safe"),
        *("--speculation.fidelity.shadow-share", "1", "--output.token-sample-share", "0.5"),
        *("--input", corpus / "videos", "--output", output, "--failures.max-share", "1"),
    )
    assert done.returncode == 0, done.stderr
    (dataset,) = output.iterdir()
    assert f"report: python jobs/report.py {dataset}" in done.stdout
    return dataset


@pytest.fixture(scope="module")
def rows(dataset: Path) -> list[dict]:
    return pyarrow.dataset.dataset(dataset / "captions").to_table().to_pylist()


@pytest.fixture
def watched(browser: Browser, dataset: Path) -> Iterator[Watched]:
    assert report.main([str(dataset)]) == 0
    (page,) = dataset.glob("runs/*/report.html")
    with watched_page(browser) as watched:
        watched.page.goto(page.as_uri())
        yield watched
        assert watched.complaints == []
        assert watched.requests[1:] == [url for url in watched.requests if url.startswith("data:")]


def names(page: Page) -> list[str]:
    """Of the clips that are shown, in order."""
    return page.locator("article.clip:not([hidden]) h3").all_text_contents()


def name_of(row: dict) -> str:
    return row["source_uri"].rpartition("/")[2]


def test_a_run_is_shown_whole(watched: Watched, rows: list[dict]) -> None:
    page = watched.page
    assert len(rows) == 10
    assert names(page) == sorted(map(name_of, rows))
    tiles = dict(
        zip(page.locator(".tile dt").all_inner_texts(), page.locator(".tile dd").all_inner_texts())
    )
    assert tiles["captions"] == "10"
    assert tiles["failures"] == "6 37.5%"
    assert "facts kept" in tiles
    captions = page.locator("article.clip .caption").all_text_contents()
    assert sorted(captions) == sorted(row["caption"] for row in rows)
    for code in ("truncated", "corrupt", "empty", "not_a_video", "no_video_stream"):
        expect(page.locator("#failures .bars").get_by_text(code, exact=True)).to_be_visible()
    expect(page.get_by_role("img", name="Histogram of accepted tokens")).to_be_visible()
    expect(page.get_by_role("img", name="Facts kept over")).to_be_visible()
    frames = page.locator(".frames img")
    assert frames.count() == 40
    frames.first.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('.frames img').naturalWidth > 0")


def test_tokens_are_coloured_and_anchors_underlined_as_the_rows_say(
    watched: Watched, rows: list[dict]
) -> None:
    page = watched.page
    sampled = [row for row in rows if row["tokens"]]
    assert 0 < len(sampled) < len(rows)
    for row in sampled:
        article = page.locator("article.clip", has=page.get_by_text(name_of(row), exact=True))
        kinds = article.locator(".token").evaluate_all("all => all.map((t) => t.classList[1])")
        told = [each["kind"] for each in row["tokens"] if each["text"]]
        assert kinds == told[: len(kinds)]
        assert len(kinds) >= len(told) - 1, "a last token may be cut off with the blank it is"
        anchors = sum(
            each["anchor_rank"] is not None and each["anchor_rank"] > row["relaxed_share"]
            for each in row["tokens"]
        )
        assert article.locator("u.anchor").count() == anchors
    relaxed = page.locator(".legend [data-kind=relaxed]")
    relaxed.click()
    expect(page.locator(".token.exact").first).to_have_css("background-color", "rgba(0, 0, 0, 0)")
    assert relaxed.get_attribute("aria-pressed") == "true"


def test_search_filter_and_order(watched: Watched, rows: list[dict]) -> None:
    page = watched.page
    word = rows[0]["caption"].split()[4].lower()
    page.get_by_label("Search").fill(f"{word} CLIP-")
    wanted = sorted(name_of(row) for row in rows if word in row["caption"].lower())
    expect(page.locator("#shown")).to_have_text(f"{len(wanted)} of 10 clips")
    assert names(page) == wanted
    page.get_by_label("Search").fill("no such word")
    expect(page.locator("#none")).to_be_visible()
    page.get_by_label("Search").fill("")
    expect(page.locator("#shown")).to_have_text("10 of 10 clips")
    page.get_by_label("Show").select_option("with their tokens")
    assert names(page) == sorted(name_of(row) for row in rows if row["tokens"])
    page.get_by_label("Show").select_option("all clips")
    page.get_by_label("Order").select_option("slowest first")
    by_time = sorted(rows, key=lambda row: (-row["decode_s"], row["source_uri"]))
    assert names(page) == [name_of(row) for row in by_time]


@pytest.mark.parametrize("colour_scheme", ["light", "dark"])
def test_thousands_of_hostile_rows_fit_a_phone_and_do_nothing(
    browser: Browser, tmp_path: Path, colour_scheme: str
) -> None:
    hostile = '<img src=x onerror="window.hacked=1">\'"<script>window.hacked=1</script>'
    layout = Layout.of(str(tmp_path), LABELS.config_digest)
    storage = storage_for(layout.uri, StorageConfig())
    token = TokenDecision(1, "exact", 1, 0.5, 0.9, hostile)
    with Committer(storage, layout, OutputConfig(uri="unused"), "run-1") as writer:
        for index in range(3000):
            more = {"decisions": (token,), "relaxed_share": 0.5} if index % 2 else {}
            made = record(clip(f"{hostile.replace('/', '')}{index}"), text=hostile, **more)
            writer.add_caption(caption_row(made, LABELS, CREATED_AT))
    flags = ("--key-frames", "0", "--max-clips", "3000")
    assert report.main([layout.uri, *flags]) == 0
    page_uri = Path(layout.run_file_uri("run-1", "report.html")).as_uri()
    with watched_page(browser, 360, 700, colour_scheme) as watched:
        page = watched.page
        page.goto(page_uri)
        page.get_by_label("Search").fill(">2999.mp4")
        expect(page.locator("#shown")).to_have_text("1 of 3000 clips")
        assert page.locator("article.clip:not([hidden]) .caption").text_content() == hostile
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.locator("img").count() == 0
        assert page.evaluate("window.hacked") is None
        assert watched.complaints == []
