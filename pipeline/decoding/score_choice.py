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
    log_odds,
    margin_score,
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
COMBINED = {
    AnchorScoreKind.COSINE: AnchorScoreKind.LEXICON_COSINE,
    AnchorScoreKind.ATTENTION: AnchorScoreKind.LEXICON_ATTENTION,
    AnchorScoreKind.MARGIN: AnchorScoreKind.LEXICON_MARGIN,
}
"""What each contextual score becomes on top of the lexicon."""
CONTEXTUAL = {combined: contextual for contextual, combined in COMBINED.items()}


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
    kind = anchors.score
    assert kind is not None
    if not kind.has_lexicon:
        return lambda request, prefill: _without_lexicon(anchors, kind, request, prefill, seed)
    if lexicon is None or calibration is None:
        raise ValueError(
            f"the score {kind} needs a calibration (speculation.calibration; jobs/calibrate.py "
            "writes one)"
        )
    mean, scale = calibration.context_mean, calibration.context_scale
    odds = [log_odds(value) for value in lexicon]

    def made(request: CaptionRequest, prefill: PrefillOutput) -> AnchorScore:
        if kind is AnchorScoreKind.LEXICON:
            return lexicon_score(lexicon, _has_video(request))
        prior = lexicon_score(odds, _has_video(request))
        contextual = _without_lexicon(anchors, CONTEXTUAL[kind], request, prefill, seed)
        return combined_score(prior, contextual, mean, scale)

    return made


def _without_lexicon(
    anchors: AnchorConfig,
    kind: AnchorScoreKind,
    request: CaptionRequest,
    prefill: PrefillOutput,
    seed: int,
) -> AnchorScore:
    """A row's score that no calibration is needed for; of resolved settings."""
    assert anchors.state is not None
    assert anchors.top_n is not None
    has_video = _has_video(request)
    if kind is AnchorScoreKind.COSINE:
        return cosine_score(prefill.visual_states, anchors.top_n, anchors.state)
    if kind is AnchorScoreKind.ATTENTION:
        return attention_score(has_video, anchors.state)
    if kind is AnchorScoreKind.MARGIN:
        return margin_score(has_video)
    if kind is AnchorScoreKind.ENTROPY:
        return entropy_score(has_video)
    return random_score(has_video, hash64(request.clip_id, f"random {seed}"))


def _has_video(request: CaptionRequest) -> bool:
    return request.target.num_visual_tokens > 0
