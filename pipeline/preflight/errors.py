"""What a preflight can end in beside a plan."""

from __future__ import annotations


class PreflightError(Exception):
    """The run can't fit as configured; the text names the numbers and a remedy."""


class PreflightUnavailableError(Exception):
    """Nothing can be said about the run: a model's config can't be read."""
