"""A small calibration file, for tests that need one to be there."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.decoding.calibration import (
    Calibration,
    PairIdentity,
    default_anchors,
    save_calibration,
)
from pipeline.speculation_config import SpeculationMethod


def write_calibration(path: Path, **changes: Any) -> str:
    """``changes``: num_speculative_tokens, vocab_size, lexicon (the value of all entries),
    visual_words_kept, confidence_threshold."""
    path.parent.mkdir(exist_ok=True)
    vocab_size = changes.get("vocab_size", 3)
    calibration = Calibration(
        pair=PairIdentity(target_revision="t", draft_revision="d", vocab_size=vocab_size),
        prompt_id="p",
        method=SpeculationMethod.SAFE,
        num_speculative_tokens=changes.get("num_speculative_tokens", 6),
        confidence_threshold=changes.get("confidence_threshold", 0.0),
        anchors=default_anchors(4),
        score_quantiles=tuple(i / 100 for i in range(101)),
        context_mean=0.0,
        context_scale=1.0,
        visual_threshold=0.5,
        visual_words_kept=changes.get("visual_words_kept", 1.0),
        measured={},
    )
    lexicon = np.full(vocab_size, changes.get("lexicon", 0.5), np.float32)
    save_calibration(path, calibration, lexicon)
    return str(path)
