from collections.abc import Callable

import pytest

from pipeline.config import RunConfig
from pipeline.settings import load_run_config


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may ask the hub."""
    monkeypatch.setattr(
        "pipeline.preflight.model_config.pin_revision", lambda *_: pytest.fail("asked the hub")
    )


@pytest.fixture
def configured() -> Callable[..., RunConfig]:
    def configured(recipe: str, flags: str = "") -> RunConfig:
        return load_run_config(
            ["--recipe", recipe, "--input", "in", "--output", "out", *flags.split()]
        )

    return configured
