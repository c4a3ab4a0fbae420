"""One HTML file that needs no other, and the content security policy that lets nothing else run.

Styles and scripts are ours and stand in the page whole; the policy names their digests. So a text
that found its way into the page as markup, against all escaping, would still not run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

SHARED = Path(__file__).parent / "templates"
"""What both pages use: look.css."""


@dataclass(frozen=True, slots=True)
class InlinePage:
    """A page. The policy is in the page, too; a server sends it as a header, plus who may frame."""

    html: str
    content_security_policy: str


def inline_page(
    folder: Path,
    template: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    sources: Mapping[str, str],
    **values: Any,
) -> InlinePage:
    """Render a template of ``folder`` with ``values``, all of them escaped.

    ``styles`` and ``scripts`` are file names in ``folder`` or SHARED; ``sources`` are directives of
    the policy beside those of styles and scripts ("img-src": "data:").
    """
    environment = Environment(
        loader=FileSystemLoader([folder, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "".join(_source(environment, name) for name in styles)
    script = "".join(_source(environment, name) for name in scripts)
    directives = {
        "default-src": "'none'",
        "style-src": _digest(style),
        "script-src": _digest(script),
        **sources,
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    policy = "; ".join(f"{name} {value}" for name, value in directives.items())
    html = environment.get_template(template).render(
        policy=policy, style=Markup(style), script=Markup(script), **values
    )
    return InlinePage(html, policy)


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _digest(text: str) -> str:
    """As browsers reckon it: of the element's text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
