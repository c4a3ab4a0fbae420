"""Make docs/live_page.png and docs/run_report.png anew: python -m tests.page_pictures

What they show is real: the sample world's videos, captioned by the reference pair on this machine,
loosely and exactly. The live page is told the rows of that run, token by token.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.dataset
from playwright.sync_api import Page, expect

from jobs import caption_corpus, report
from pipeline.sample_world.corpus import CorpusPlan, write_corpus
from tests.browser import open_browser, watched_page
from tests.page_server import FINAL, PageServer, chunk, last_chunk, page_server, token

DOCS = Path(__file__).parents[1] / "docs"
SHOWN = "clip-00004.webm"
_WIDTH_PX = 1200


def main() -> None:
    """Write both pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in write_corpus(folder / "corpus", CorpusPlan(num_videos=40, num_damaged=6)):
            pass
        loose = _caption(
            folder, "captions", "safe", *("--speculation.fidelity.shadow-share", "0.5")
        )
        exact = _caption(folder, "exact", "exact")
        page = folder / "report.html"
        with contextlib.chdir(folder):  # so that the page names no folder of this machine
            dataset = str(loose.relative_to(folder))
            assert report.main([dataset, "--output", str(page), "--max-clips", "12"]) == 0
        _picture_of_report(page)
        _picture_of_live_page(folder / "corpus" / "videos" / SHOWN, _row(loose), _row(exact))


def _caption(folder: Path, name: str, method: str, *more: str) -> Path:
    """The data set of a run."""
    flags = (
        *("--recipe", "reference", "--runner", "local", "--speculation.method", method),
        *("--input", str(folder / "corpus" / "videos"), "--output", str(folder / name)),
        *("--output.token-sample-share", "1", "--failures.max-share", "1", *more),
    )
    assert caption_corpus.main(list(flags)) == 0
    (dataset,) = (folder / name).iterdir()
    return dataset


def _row(dataset: Path) -> dict[str, Any]:
    """The caption of the clip that is shown."""
    rows = pyarrow.dataset.dataset(dataset / "captions").to_table().to_pylist()
    return next(row for row in rows if row["source_uri"].endswith(SHOWN))


def _rounds(row: dict[str, Any]) -> list[dict | str]:
    """The answer as a stream: a round ends with a token of the target's own."""
    lambda_ = row["relaxed_share"]
    rounds: list[list[dict]] = [[]]
    for each in row["tokens"]:
        rank = each["anchor_rank"]
        is_anchor = None if rank is None or lambda_ is None else rank > lambda_
        rounds[-1].append(token(each["text"], each["kind"], rank, is_anchor))
        if each["kind"] in ("correction", "bonus"):
            rounds.append([])
    figures = {name: row[name] for name in FINAL if name in row}
    figures["tokens_per_s"] = row["output_tokens"] / row["decode_s"]
    figures["first_token_s"] = row["prefill_s"]
    figures["queue_s"] = 0.0
    end = last_chunk(**figures) | {"usage": {"completion_tokens": row["output_tokens"]}}
    return [*(chunk(tokens) for tokens in rounds if tokens), end, "[DONE]"]


def _picture_of_report(path: Path) -> None:
    with open_browser() as browser, watched_page(browser, _WIDTH_PX, 2000) as watched:
        watched.page.goto(path.as_uri())
        watched.page.screenshot(path=DOCS / "run_report.png")


def _picture_of_live_page(video: Path, loose: dict[str, Any], exact: dict[str, Any]) -> None:
    with (
        page_server() as server,
        open_browser() as browser,
        watched_page(browser, _WIDTH_PX, 900) as watched,
    ):
        server.model, server.draft_model = loose["model_id"], loose["draft_model_id"]
        page = watched.page
        page.goto(server.origin)
        page.set_input_files("#file", video)
        expect(page.locator("#frames canvas")).to_have_count(6)
        _answer(server, page, exact, is_exact=True, number=1)
        _answer(server, page, loose, is_exact=False, number=2)
        page.screenshot(path=DOCS / "live_page.png", full_page=True)


def _answer(
    server: PageServer, page: Page, row: dict[str, Any], is_exact: bool, number: int
) -> None:
    server.script = _rounds(row)
    page.get_by_role("switch").set_checked(is_exact)
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".final:visible")).to_have_count(number)


if __name__ == "__main__":
    main()
