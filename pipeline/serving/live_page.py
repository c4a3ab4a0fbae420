"""The page of the endpoint: ask about a video, and watch the answer being made."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pipeline.report.html_tokens import ANCHOR, KINDS
from pipeline.report.inline_page import InlinePage, inline_page

_FOLDER = Path(__file__).parent / "page"


@cache
def live_page() -> InlinePage:
    """The page, whole, and the policy to send with it.

    It talks to its own origin alone: ``GET v1/models`` and ``POST v1/chat/completions`` beside its
    own address. The policy's ``frame-ancestors`` only works as a header.
    """
    page = inline_page(
        _FOLDER,
        "index.html",
        styles=("look.css", "live.css"),
        scripts=("sse.js", "tokens.js", "key_frames.js", "endpoint.js", "answer.js", "live.js"),
        sources={"connect-src": "'self'", "img-src": "data:", "media-src": "blob:"},
        kinds=KINDS,
        anchor=ANCHOR,
    )
    policy = f"{page.content_security_policy}; frame-ancestors 'none'"
    return InlinePage(page.html, policy)
