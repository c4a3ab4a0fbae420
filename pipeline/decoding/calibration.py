"""What was measured about a pair of models, as a small file that recipes refer to.

Two files side by side: ``<name>.json`` with everything but the lexicon, and ``<name>.lexicon.npy``
with one float32 per vocabulary entry (600 kB for 150 k entries). jobs/calibrate.py writes them.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.speculation_config import (
    AnchorConfig,
    AnchorScoreKind,
    AnchorState,
    QuantileScope,
    SpeculationConfig,
    SpeculationMethod,
)

DEFAULT_NUM_SPECULATIVE_TOKENS = 4


class CalibrationError(ValueError):
    """A calibration file that is missing, damaged, or made for other models."""


class PairIdentity(BaseModel):
    """Which models a calibration was made with. Revisions as VideoLM gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_revision: str
    draft_revision: str | None
    vocab_size: int


class AnchorSettings(BaseModel):
    """The chosen rule; the fields of AnchorConfig, all of them known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: AnchorScoreKind
    layer: int
    state: AnchorState
    top_n: int
    quantile_scope: QuantileScope
    relaxed_share: float
    shift_window: int


class Calibration(BaseModel):
    """A calibration without its lexicon.

    score_quantiles are ascending quantiles of the chosen score over the calibration tokens, by
    which scope ``calibrated`` turns lambda into a threshold. context_mean and context_scale weigh
    the contextual score of a combination. visual_threshold is the lexicon value above which a token
    counts as visual; visual_words_kept is the share of such words that the choice kept on clips
    that it was not chosen on, for the fidelity budget. measured says how it was made and what it
    showed, for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pair: PairIdentity
    prompt_id: str
    method: SpeculationMethod
    num_speculative_tokens: int
    confidence_threshold: float
    anchors: AnchorSettings
    score_quantiles: tuple[float, ...]
    context_mean: float
    context_scale: float
    visual_threshold: float
    visual_words_kept: float
    measured: dict[str, Any]

    def check_pair(self, pair: PairIdentity) -> None:
        """Raise CalibrationError unless it was made with these models; a draft may be missing."""
        draft_revision = pair.draft_revision or self.pair.draft_revision
        if pair.model_copy(update={"draft_revision": draft_revision}) != self.pair:
            raise CalibrationError(
                f"the calibration was made with {self.pair}, but the pair is {pair}; "
                "run jobs/calibrate.py for this pair"
            )


Lexicon = npt.NDArray[np.float32]


def lexicon_path(path: Path) -> Path:
    """Where the lexicon of a calibration file lies."""
    return path.with_suffix(".lexicon.npy")


def save_calibration(path: Path, calibration: Calibration, lexicon: Lexicon) -> None:
    """Write both files."""
    path.write_text(calibration.model_dump_json(indent=2) + "\n", encoding="utf-8")
    np.save(lexicon_path(path), lexicon.astype(np.float32))


def load_calibration(path: Path) -> tuple[Calibration, Lexicon]:
    """Read both files. Raises CalibrationError that names the file."""
    try:
        calibration = Calibration.model_validate(json.loads(path.read_text(encoding="utf-8")))
        lexicon = np.load(io.BytesIO(lexicon_path(path).read_bytes()), allow_pickle=False)
    except (OSError, ValueError, ValidationError) as error:
        raise CalibrationError(
            f"{path}: can't be read as a calibration ({error}); jobs/calibrate.py writes one"
        ) from error
    if lexicon.shape != (calibration.pair.vocab_size,) or lexicon.dtype != np.float32:
        raise CalibrationError(
            f"{lexicon_path(path)}: float32 [{calibration.pair.vocab_size}] expected, "
            f"not {lexicon.dtype} {list(lexicon.shape)}"
        )
    return calibration, lexicon


def calibration_digest(path: Path) -> str:
    """16 hex digits of both files' content, for the config digest. Raises CalibrationError."""
    digest = hashlib.blake2b(digest_size=8)
    for file in (path, lexicon_path(path)):
        try:
            digest.update(file.read_bytes())
        except OSError as error:
            raise CalibrationError(f"{file}: can't be read ({error})") from error
    return digest.hexdigest()


def resolve(
    speculation: SpeculationConfig, calibration: Calibration | None, num_layers: int
) -> SpeculationConfig:
    """The same settings with every None filled: what is set wins, then the calibration, then the
    defaults of pipeline/speculation_config.py.

    Of a calibration all belongs to its loose rule, the length of drafts and where they stop too.
    """
    if not speculation.method.has_anchors:
        calibration = None
    known = calibration.anchors if calibration else default_anchors(num_layers)
    stated = speculation.anchors.model_dump(exclude_none=True)
    num_tokens = speculation.num_speculative_tokens or (
        calibration.num_speculative_tokens if calibration else DEFAULT_NUM_SPECULATIVE_TOKENS
    )
    drafting = speculation.drafting
    if drafting.confidence_threshold is None:
        threshold = calibration.confidence_threshold if calibration else 0.0
        drafting = drafting.model_copy(update={"confidence_threshold": threshold})
    return speculation.model_copy(
        update={
            "num_speculative_tokens": num_tokens,
            "drafting": drafting,
            "anchors": AnchorConfig(**{**known.model_dump(), **stated}),
        }
    )


def default_anchors(num_layers: int) -> AnchorSettings:
    """The paper's values, with the middle layer."""
    return AnchorSettings(
        score=AnchorScoreKind.COSINE,
        layer=num_layers // 2,
        state=AnchorState.PREDICTING,
        top_n=10,
        quantile_scope=QuantileScope.BLOCK,
        relaxed_share=0.7,
        shift_window=3,
    )
