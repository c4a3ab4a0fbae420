"""Guards the live page in a real browser: what it sends, what it shows, how it fails."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from starlette.responses import JSONResponse

from tests.browser import Watched, open_browser, watched_page
from tests.live_page_steps import SCRIPT, TEXT, TOKENS, ask, ask_about_a_url, drop, problem
from tests.page_server import FINAL, MODEL, PageServer, Pause, chunk, page_server
from tests.video_files import write_video


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def server() -> Iterator[PageServer]:
    with page_server() as server:
        server.script = SCRIPT
        yield server


@pytest.fixture
def watched(browser: Browser, server: PageServer) -> Iterator[Watched]:
    with watched_page(browser) as watched:
        watched.page.goto(server.origin)
        yield watched


@pytest.fixture(scope="module")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VP9: every Chromium plays it. The pictures spell their index, so no two are alike."""
    path = tmp_path_factory.mktemp("videos") / "a clip.webm"
    return write_video(path, codec="libvpx-vp9", num_frames=50, height_px=96, width_px=128)


def test_a_dropped_video_is_shown_asked_about_and_answered_in_colours(
    watched: Watched, server: PageServer, video_file: Path
) -> None:
    page = watched.page
    drop(page, video_file)
    expect(page.locator("#frames canvas")).to_have_count(6)
    pictures = page.eval_on_selector_all("#frames canvas", "all => all.map((c) => c.toDataURL())")
    assert len(set(pictures)) == 6, "key frames are different moments"
    expect(page.locator("#video-facts")).to_contain_text("2.0 s, 128 × 96")

    ask(page, "What moves?")
    expect(page.locator("#status")).to_have_text("The answer is complete: 8 tokens.")
    expect(page.locator(".caption")).to_have_text(TEXT)
    shown = page.eval_on_selector_all(
        ".caption .token", "all => all.map((t) => [t.textContent, t.className])"
    )
    assert shown == [[each["text"], f"token {each['kind']}"] for each in TOKENS]
    colours = page.eval_on_selector_all(
        ".caption .token", "all => all.map((t) => getComputedStyle(t).backgroundColor)"
    )
    by_kind = dict(zip((each["kind"] for each in TOKENS), colours))
    assert len(set(by_kind.values())) == 5, "each kind has a colour of its own"
    underlined = page.eval_on_selector_all(
        ".caption *",
        """all => all.filter((e) => getComputedStyle(e).textDecorationLine === "underline")
            .map((e) => e.textContent)""",
    )
    assert underlined == [each["text"].strip() for each in TOKENS if each["is_anchor"]]

    (request,) = server.asked
    video, text = request["messages"][0]["content"]
    prefix, _, data = video["video_url"]["url"].partition(",")
    assert prefix == "data:video/webm;base64"
    assert base64.b64decode(data) == video_file.read_bytes()
    assert text == {"type": "text", "text": "What moves?"}
    assert request["stream"] is True
    assert request["stream_options"] == {"include_usage": True}
    assert request["lvspec"] == {"exact": False, "return_tokens": True}
    assert request["model"] == MODEL
    assert watched.complaints == []
    assert watched.outside(server.origin) == []


def test_the_legend_counts_and_picks_out_a_kind_and_figures_are_the_endpoints(
    watched: Watched,
) -> None:
    page = watched.page
    ask_about_a_url(page)
    expect(page.locator(".final")).to_be_visible()
    counts = page.eval_on_selector_all(
        ".legend button", "all => all.map((b) => [b.dataset.kind, Number(b.lastChild.textContent)])"
    )
    assert dict(counts) == {
        "exact": 3,
        "relaxed": 1,
        "shifted": 1,
        "correction": 2,
        "bonus": 1,
        "anchor": 2,
    }
    tiles = page.locator(".answer .tile dd").all_inner_texts()
    assert tiles == ["123 tokens/s", "2.00", "0.25 s", "9"]
    assert f"drafted\n{FINAL['drafted_tokens']}" in page.locator(".final").inner_text()
    button = page.get_by_role("button", name=re.compile("^relaxed"))
    exact, relaxed = (page.locator(f".caption .{kind}").first for kind in ("exact", "relaxed"))
    nothing = "rgba(0, 0, 0, 0)"
    button.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(exact).to_have_css("background-color", nothing)
    expect(relaxed).not_to_have_css("background-color", nothing)
    button.press("Enter")
    expect(exact).not_to_have_css("background-color", nothing)


def test_text_streams_in_and_cancel_ends_the_request(watched: Watched, server: PageServer) -> None:
    server.script = [chunk(TOKENS[:2]), Pause(0.2), chunk(TOKENS[2:4]), Pause(60), "[DONE]"]
    page = watched.page
    ask_about_a_url(page)
    expect(page.locator(".caption")).to_have_text("A red ball slides")
    expect(page.locator(".speed")).not_to_have_text("–")
    page.get_by_role("button", name="Cancel").click()
    assert problem(page) == "Cancelled."
    expect(page.locator(".caption")).to_have_text("A red ball slides")
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    page.wait_for_timeout(300)
    assert server.num_left_early == 1, "the server saw the client leave"
    assert watched.complaints == []


def test_further_questions_keep_the_answers_before(
    watched: Watched, server: PageServer, video_file: Path
) -> None:
    page = watched.page
    drop(page, video_file)
    for number, question in enumerate(("First?", "Second?"), start=1):
        ask(page, question)
        expect(page.locator(".final:visible")).to_have_count(number)
    assert page.locator(".asked").all_inner_texts() == ["Second?", "First?"]
    first, second = (request["messages"][0]["content"][0] for request in server.asked)
    assert first == second, "the same video, in a request of its own"


def test_exact_mode_key_and_default_question_are_sent_and_the_key_is_not_kept(
    watched: Watched, server: PageServer
) -> None:
    page = watched.page
    page.get_by_role("switch").check()
    page.locator("summary").click()
    page.get_by_label("API key", exact=True).fill("sesame")
    ask_about_a_url(page)
    expect(page.locator(".final")).to_be_visible()
    (request,) = server.asked
    assert request["lvspec"]["exact"] is True
    video, text = request["messages"][0]["content"]
    assert video["video_url"]["url"] == "https://media.example.org/a.mp4"
    assert text["text"] == "Describe this video in detail."
    assert server.keys == ["Bearer sesame"] * 2
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
        0,
        0,
        "",
    ]
    page.reload()
    assert page.locator("#key").input_value() == ""


@pytest.mark.parametrize(
    ("status", "headers", "wanted"),
    [
        (401, {}, "asks for an API key"),
        (413, {}, "too large"),
        (429, {"Retry-After": "7"}, "The endpoint is busy. It says why. Try again in 7 s."),
        (400, {}, "status 400. It says why."),
        (503, {}, "can't answer now"),
    ],
)
def test_refusals_are_told_in_words(
    watched: Watched, server: PageServer, status: int, headers: dict, wanted: str
) -> None:
    error = {"message": "It says why", "type": "x", "param": None, "code": "y"}
    server.refusal = JSONResponse({"error": error}, status, headers)
    ask_about_a_url(watched.page)
    assert wanted in problem(watched.page)
    expect(watched.page.get_by_role("button", name="Ask")).to_be_enabled()


@pytest.mark.parametrize(
    ("ending", "wanted"),
    [
        ([{"error": {"message": "The time was up"}}], "The time was up."),
        ([], "broke off before the answer was complete"),
        (["{half a"], "something that is no answer"),
    ],
)
def test_an_answer_that_breaks_off_keeps_what_came_and_says_so(
    watched: Watched, server: PageServer, ending: list, wanted: str
) -> None:
    server.script = [chunk(TOKENS[:4]), *ending]
    ask_about_a_url(watched.page)
    assert wanted in problem(watched.page)
    expect(watched.page.locator(".caption")).to_have_text("A red ball slides")


def test_an_endpoint_that_is_gone_is_told_in_words(browser: Browser) -> None:
    with page_server() as server, watched_page(browser) as watched:
        watched.page.goto(server.origin)
        watched.page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
        ask_about_a_url(watched.page)
        assert "can't be reached" in problem(watched.page)


def test_nothing_is_asked_without_a_video(watched: Watched, server: PageServer) -> None:
    ask(watched.page, "What?")
    expect(watched.page.locator("#form-problem")).to_have_text(
        "Choose a video first, or give its URL."
    )
    assert server.asked == []
