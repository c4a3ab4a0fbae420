"""From the settings of the anchors to a score for each row, and what the target must report."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.decoding.anchor_scores import (
    AnchorScore,
    attention_score,
    combined_score,
    cosine_score,
    entropy_score,
    lexicon_score,
    random_score,
)
from pipeline.decoding.calibration import Calibration
from pipeline.decoding.clip_share import hash64
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import NO_TAPS, PrefillOutput, Taps
from pipeline.speculation_config import (
    AnchorConfig,
    AnchorScoreKind,
    SpeculationConfig,
    SpeculationMethod,
)

ScoreOfRow = Callable[[CaptionRequest, PrefillOutput], AnchorScore]

_STATE_SCORES = (AnchorScoreKind.COSINE, AnchorScoreKind.LEXICON_COSINE)
_ATTENTION_SCORES = (AnchorScoreKind.ATTENTION, AnchorScoreKind.LEXICON_ATTENTION)
_LEXICON_SCORES = (
    AnchorScoreKind.LEXICON,
    AnchorScoreKind.LEXICON_COSINE,
    AnchorScoreKind.LEXICON_ATTENTION,
)


def taps_for(speculation: SpeculationConfig) -> Taps:
    """What the target must report for the (resolved) method's rule."""
    if speculation.method not in (SpeculationMethod.PAPER, SpeculationMethod.SAFE):
        return NO_TAPS
    anchors = speculation.anchors
    return Taps(
        states_layer=anchors.layer if anchors.score in _STATE_SCORES else None,
        attention_layer=anchors.layer if anchors.score in _ATTENTION_SCORES else None,
    )


def score_of_row_for(
    anchors: AnchorConfig,
    calibration: Calibration | None,
    lexicon: Sequence[float] | None,
    seed: int,
) -> ScoreOfRow:
    """The configured score, made for each row from its prompt and prefill."""
    kind, state, top_n = anchors.score, anchors.state, anchors.top_n
    assert kind is not None
    assert state is not None
    assert top_n is not None
    if kind in _LEXICON_SCORES and (lexicon is None or calibration is None):
        raise ValueError(
            f"the score {kind} needs a calibration (speculation.calibration; jobs/calibrate.py "
            "writes one)"
        )

    def made(request: CaptionRequest, prefill: PrefillOutput) -> AnchorScore:
        has_video = request.target.num_visual_tokens > 0
        if kind is AnchorScoreKind.RANDOM:
            return random_score(has_video, hash64(request.clip_id, f"random {seed}"))
        if kind is AnchorScoreKind.ENTROPY:
            return entropy_score(has_video)
        if kind is AnchorScoreKind.COSINE:
            return cosine_score(prefill.visual_states, top_n, state)
        if kind is AnchorScoreKind.ATTENTION:
            return attention_score(has_video, state)
        assert lexicon is not None
        assert calibration is not None
        prior = lexicon_score(lexicon, has_video)
        if kind is AnchorScoreKind.LEXICON:
            return prior
        contextual = (
            cosine_score(prefill.visual_states, top_n, state)
            if kind is AnchorScoreKind.LEXICON_COSINE
            else attention_score(has_video, state)
        )
        return combined_score(prior, contextual, calibration.context_mean, calibration.context_std)

    return made
