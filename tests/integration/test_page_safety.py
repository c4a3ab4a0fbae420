"""Guards the live page against what it shows and where: hostile text, odd tokens, small screens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import Watched, open_browser, watched_page
from tests.live_page_steps import SCRIPT, ask, ask_about_a_url, drop, problem
from tests.page_server import PageServer, chunk, page_server, token
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


HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script></p>'


def test_text_of_the_endpoint_and_file_names_are_text(
    watched: Watched, server: PageServer, tmp_path: Path
) -> None:
    """Caption, token kind, error message and file name: none becomes markup or a class of ours."""
    tokens = [token(HOSTILE, "exact"), token(" end", '"><b>', 0.5, True)]
    error = {"error": {"message": HOSTILE}}
    server.script = [chunk(tokens), error]
    path = tmp_path / "a<b onclick=x>.webm"
    write_video(path, codec="libvpx-vp9", num_frames=4)
    page = watched.page
    drop(page, path)
    ask(page, HOSTILE)
    assert HOSTILE in problem(page)
    assert page.locator(".caption").text_content() == f"{HOSTILE} end"
    assert page.locator(".asked").text_content() == HOSTILE
    assert page.locator("#video-name").text_content() == path.name
    assert page.locator("img, .answer b, .answer script").count() == 0
    assert page.evaluate("window.hacked") is None
    assert watched.complaints == []


def test_the_policy_stops_what_escaping_would_miss(watched: Watched) -> None:
    """Markup that got into the page all the same does not run and loads nothing."""
    page = watched.page
    page.evaluate(
        """() => { document.getElementById("answers").innerHTML =
            '<img src="http://198.51.100.1/x" onerror="window.hacked=1">' }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in complaint for complaint in watched.complaints)


def test_tokens_that_are_less_than_their_text_alone(watched: Watched, server: PageServer) -> None:
    """Two halves of a character, and a space that the text drops: the text is in order."""
    tokens = [
        token(" Caf", "exact", 0.1, False),
        token("\ufffd", "relaxed", 0.2, False),
        token("\ufffd", "correction"),
        token(" open", "bonus"),
        token("", "correction"),
    ]
    server.script = [
        chunk(tokens[:2], text="Caf"),
        chunk(tokens[2:3], text="é"),
        chunk(tokens[3:], text=" open"),
        "[DONE]",
    ]
    page = watched.page
    ask_about_a_url(page)
    expect(page.locator("#status")).to_have_text("The answer is complete: 5 tokens.")
    assert page.locator(".caption").text_content() == "Café open"
    kinds = page.eval_on_selector_all(
        ".caption .token", "all => all.map((t) => [t.textContent, t.classList[1]])"
    )
    assert kinds == [["Caf", "exact"], ["é", "relaxed"], [" open", "bonus"]]


def test_a_file_that_the_browser_can_not_play_can_be_asked_about(
    watched: Watched, tmp_path: Path
) -> None:
    page = watched.page
    drop(page, write_video(tmp_path / "old.avi", num_frames=8))
    expect(page.locator("#frames-note")).to_contain_text(
        "No key frames: this browser can't play it"
    )
    ask(page)
    expect(page.locator(".final")).to_be_visible()


@pytest.mark.parametrize("colour_scheme", ["light", "dark"])
def test_it_fits_a_phone_is_labelled_and_has_contrast(
    browser: Browser, server: PageServer, colour_scheme: str
) -> None:
    with watched_page(browser, 360, 700, colour_scheme) as watched:
        page = watched.page
        page.goto(server.origin)
        ask_about_a_url(page)
        expect(page.locator(".final")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate(UNLABELLED) == []
        too_faint = [found for found in page.evaluate(CONTRASTS) if found[1] < 4.5]
        assert too_faint == []
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body"), "keys reach it"


UNLABELLED = """() => [...document.querySelectorAll("input, textarea, button")]
    .filter((e) => !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map((e) => e.id)"""

CONTRASTS = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")]
    .filter((e) => e.checkVisibility())
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .map((e) => {
      const [a, b] = [parse(getComputedStyle(e).color), behind(e)].map(luminance);
      return [`${e.tagName}.${e.className}`, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
}"""
