"""Guards pages of one file: what is inlined is what the policy lets run, and values are escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from pipeline.report.inline_page import inline_page
from pipeline.serving.live_page import live_page

TEMPLATE = (
    '<meta http-equiv="Content-Security-Policy" content="{{ policy }}">'
    "<style>{{ style }}</style><p>{{ text }}</p><script>{{ script }}</script>"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page.html").write_text(TEMPLATE)
    (tmp_path / "a.css").write_text("p { color: red }\n")
    (tmp_path / "a.js").write_text('"use strict"; let a = "{{ not a template }}" < 2 && 1;\n')
    (tmp_path / "b.js").write_text("a += 1;\n")
    return tmp_path


def digests(html: str, tag: str) -> list[str]:
    return [
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    ]


def test_the_policy_names_what_is_inlined(folder: Path) -> None:
    page = inline_page(
        folder, "page.html", ["a.css"], ["a.js", "b.js"], {"img-src": "data:"}, text="<b>"
    )
    assert '"{{ not a template }}" < 2 && 1;\na += 1;\n</script>' in page.html
    assert "<p>&lt;b&gt;</p>" in page.html
    (style,), (script,) = digests(page.html, "style"), digests(page.html, "script")
    assert page.content_security_policy == (
        f"default-src 'none'; style-src {style}; script-src {script}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def test_a_value_that_is_missing_is_an_error(folder: Path) -> None:
    with pytest.raises(UndefinedError):
        inline_page(folder, "page.html", [], [], {})


def test_the_live_page_talks_to_its_own_origin_alone() -> None:
    page = live_page()
    for directive in (
        "default-src 'none'",
        "connect-src 'self'",
        "media-src blob:",
        "frame-ancestors 'none'",
        *(f"style-src {digest}" for digest in digests(page.html, "style")),
        *(f"script-src {digest}" for digest in digests(page.html, "script")),
    ):
        assert directive in page.content_security_policy
    assert "unsafe" not in page.content_security_policy
    assert "innerHTML" not in page.html
    assert "localStorage" not in page.html
