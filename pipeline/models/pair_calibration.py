"""Whether a calibration file is that of the loaded pair."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import SpeculationConfig
from pipeline.decoding.calibration import CalibrationError, PairIdentity, load_calibration
from pipeline.models.base import VideoLM
from pipeline.models.errors import PairError


def check_calibration(
    speculation: SpeculationConfig, target: VideoLM, draft: VideoLM | None
) -> None:
    """Raise PairError if a loose method would decode by the calibration of another pair."""
    path = speculation.calibration
    if path is None or not speculation.method.is_loose:
        return
    calibration, _ = load_calibration(Path(path))
    pair = PairIdentity(
        target_revision=target.revision,
        draft_revision=draft.revision if draft else None,
        vocab_size=target.vocab_size,
    )
    try:
        calibration.check_pair(pair)
    except CalibrationError as error:
        raise PairError(f"{path}: {error}") from error
