"""What tests do with the live page, and the answer that they mostly get."""

from __future__ import annotations

import base64
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.page_server import chunk, last_chunk, token

TOKENS = [
    token("A", "correction"),
    token(" red", "exact", 0.95, True),
    token(" ball", "exact", 0.4, False),
    token(" slides", "relaxed", 0.2, False),
    token(" to", "correction"),
    token(" the", "shifted", 0.3, False),
    token(" left", "exact", 0.99, True),
    token(".", "bonus"),
]
TEXT = "A red ball slides to the left."
SCRIPT = [chunk(TOKENS[:1]), chunk(TOKENS[1:5]), chunk(TOKENS[5:]), last_chunk(), "[DONE]"]


def drop(page: Page, path: Path) -> None:
    """Drop the file, as dragging it from a folder does."""
    content = base64.b64encode(path.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """([content, name]) => {
            const bytes = Uint8Array.from(atob(content), (char) => char.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "video/webm" }));
            return transfer;
        }""",
        [content, path.name],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def ask(page: Page, question: str = "") -> None:
    page.get_by_label("Question", exact=True).fill(question)
    page.get_by_role("button", name="Ask").click()


def ask_about_a_url(page: Page) -> None:
    page.get_by_label("or its URL").fill("https://media.example.org/a.mp4")
    ask(page)


def problem(page: Page) -> str:
    """What the newest answer says went wrong."""
    shown = page.locator(".answer .problem").first
    expect(shown).to_be_visible()
    return shown.inner_text()
