"""A headless Chromium for tests of pages: what it asked for, and what went wrong in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium_path() -> str:
    """The browser's executable. A machine without one fails the test: pages are not optional."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    assert found, "no browser: apt-get install chromium, or name one in CHROMIUM"
    return found


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start it; it has no profile, and ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(),
            args=["--no-sandbox"],  # tests may run as root
        )
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, all addresses that it asked for, and all that it complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text)
                if message.type in ("error", "warning")
                else None
            ),
        )

    def outside(self, origin: str) -> list[str]:
        """Requests that left the origin; data and blob URLs go nowhere."""
        local = (origin, "data:", "blob:")
        return [url for url in self.requests if not url.startswith(local)]


@contextmanager
def watched_page(
    browser: Browser, width_px: int = 1200, height_px: int = 900, colour_scheme: str = "light"
) -> Iterator[Watched]:
    """A page of its own, closed at the end."""
    context = browser.new_context(
        viewport={"width": width_px, "height": height_px},
        color_scheme="dark" if colour_scheme == "dark" else "light",
    )
    context.set_default_timeout(20_000)
    try:
        yield Watched(context.new_page())
    finally:
        context.close()
