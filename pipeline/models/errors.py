"""Errors of configured models: the message names the model and the remedy."""

from __future__ import annotations


class ModelLoadError(RuntimeError):
    """A model can't be loaded as configured."""


class PairError(RuntimeError):
    """A draft does not fit its target: they don't mean the same by the same token ids."""
