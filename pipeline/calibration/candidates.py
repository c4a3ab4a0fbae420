"""Anchor scores of every layer and state, on captions and on mismatches.

Shapes: K tokens of a caption but for its first one, which no draft proposes; N mismatches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.calibration.mismatches import Mismatch
from pipeline.calibration.reading import TargetCaption, longest_caption, open_reader, opened
from pipeline.calibration.separation import auc
from pipeline.decoding.acceptance import VerifiedBlock
from pipeline.decoding.anchor_scores import (
    AnchorScore,
    attention_score,
    cosine_score,
    entropy_score,
    log_odds,
    margin_score,
)
from pipeline.decoding.calibration import Lexicon
from pipeline.decoding.session import ForwardOutput, PrefillOutput, Taps
from pipeline.decoding.sessions import DecodingModel
from pipeline.speculation_config import AnchorScoreKind, AnchorState

MAX_LAYERS = 8
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A score that a recipe can name. Layer, state and top_n are None where it has none."""

    kind: AnchorScoreKind
    layer: int | None = None
    state: AnchorState | None = None
    top_n: int | None = None

    def __str__(self) -> str:
        parts: list[object] = [self.kind]
        if self.layer is not None:
            parts.append(f"layer {self.layer}")
        if self.state is not None:
            parts.append(self.state)
        if self.top_n is not None:
            parts.append(f"N {self.top_n}")
        return ", ".join(map(str, parts))


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Of one candidate: ``captions`` [all K of all captions] for the target's own tokens, and
    ``mismatches`` [N] where the draft's token stands instead."""

    captions: Floats
    mismatches: Floats


@dataclass(frozen=True, slots=True, eq=False)
class CaptionTokens:
    """The tokens that are scored: of each caption all but the first; in the order of Scores."""

    captions: Sequence[TargetCaption]
    mismatches: Sequence[Mismatch]

    @property
    def clips(self) -> npt.NDArray[np.int64]:
        """Of which caption each token is."""
        lengths = [len(caption.token_ids) - 1 for caption in self.captions]
        return np.repeat(np.arange(len(lengths)), lengths)

    @property
    def mismatch_clips(self) -> npt.NDArray[np.int64]:
        """Of which caption each mismatch is."""
        return np.array([mismatch.caption for mismatch in self.mismatches], np.int64)

    def as_drafted(self, scores: Scores) -> Floats:
        """Scores of what the draft proposes: the caption's tokens with the mismatches in them."""
        lengths = [len(caption.token_ids) - 1 for caption in self.captions]
        starts = np.cumsum([0, *lengths])
        drafted = scores.captions.copy()
        for mismatch, score in zip(self.mismatches, scores.mismatches):
            drafted[starts[mismatch.caption] + mismatch.position - 1] = score
        return drafted

    def num_readings(self, num_layers: int) -> int:
        """How often a caption is read to score all layers."""
        return len(self.captions) * len(candidate_layers(num_layers))

    def of_mismatch(self, caption: int) -> list[Mismatch]:
        """Those of one caption."""
        return [mismatch for mismatch in self.mismatches if mismatch.caption == caption]


def candidate_layers(num_layers: int) -> list[int]:
    """All layers of a small model, else eight spread evenly, the first and the last included."""
    if num_layers <= MAX_LAYERS:
        return list(range(num_layers))
    return [round(i * (num_layers - 1) / (MAX_LAYERS - 1)) for i in range(MAX_LAYERS)]


def lexicon_scores(tokens: CaptionTokens, lexicon: Lexicon) -> Scores:
    """The lexicon's value of a token, of a mismatch the higher of its two."""
    own = [token for caption in tokens.captions for token in caption.token_ids[1:]]
    pairs = [(mismatch.drafted, mismatch.choice) for mismatch in tokens.mismatches]
    return Scores(
        lexicon[own].astype(np.float64),
        lexicon[np.array(pairs, np.int64).reshape(-1, 2)].max(-1).astype(np.float64),
    )


@dataclass(frozen=True, slots=True)
class Context:
    """How a contextual score is added to the lexicon's log-odds: (score - mean) / scale."""

    mean: float
    scale: float


def combined_scores(prior: Scores, contextual: Scores, context: Context) -> Scores:
    """The lexicon's log-odds and a contextual score; see anchor_scores.combined_score."""

    def combined(words: Floats, contexts: Floats) -> Floats:
        odds = np.array([log_odds(word) for word in words], np.float64)
        return odds + (contexts - context.mean) / context.scale

    return Scores(
        combined(prior.captions, contextual.captions),
        combined(prior.mismatches, contextual.mismatches),
    )


def fitted_context(
    tokens: CaptionTokens, prior: Scores, contextual: Scores, harmful: npt.NDArray[np.bool_]
) -> Context:
    """The weight, of WEIGHTS per standard deviation, that tells harmful mismatches best."""
    drafted = tokens.as_drafted(contextual)
    mean, std = float(drafted.mean()), float(drafted.std()) or 1.0
    contexts = [Context(mean, std / weight) for weight in WEIGHTS]
    return max(
        contexts,
        key=lambda context: auc(combined_scores(prior, contextual, context).mismatches, harmful),
    )


def contextual_scores(
    target: DecodingModel,
    tokens: CaptionTokens,
    top_n: int,
    report: Callable[[int], None],
) -> dict[Candidate, Scores]:
    """Cosine and attention by layer and state, and the target's margin and entropy.

    A mismatch is scored as in decoding: the drafted token is read in its place. ``report`` is told
    how many captions were read, those of all layers counted.
    """
    parts: dict[Candidate, tuple[list[float], list[float]]] = {}
    prompts = [caption.request.target for caption in tokens.captions]
    num_read = 0
    for layer in candidate_layers(target.num_layers):
        taps = Taps(states_layer=layer, attention_layer=layer)
        session = open_reader(target, prompts, longest_caption(tokens.captions), taps=taps)
        for index, caption in enumerate(tokens.captions):
            with opened(session, caption.request.target) as reader:
                read = reader.read(caption.token_ids)
                scorers = _scorers(layer, top_n, reader.prefill, read)
                blocks = [_block(caption.token_ids[1:], read)]
                # From the last to the first, so that what is read is only ever cut.
                for mismatch in reversed(tokens.of_mismatch(index)):
                    drafted = reader.read([mismatch.drafted], after=mismatch.position)
                    blocks.insert(1, _alternative(mismatch, read, drafted))
            for candidate, score in scorers.items():
                own, other = parts.setdefault(candidate, ([], []))
                own.extend(score(blocks[0]))
                other.extend(score(block)[0] for block in blocks[1:])
            num_read += 1
            report(num_read)
        del session
    return {
        candidate: Scores(np.array(own, np.float64), np.array(other, np.float64))
        for candidate, (own, other) in parts.items()
    }


def _scorers(
    layer: int, top_n: int, prefill: PrefillOutput, read: ForwardOutput
) -> dict[Candidate, AnchorScore]:
    has_video = prefill.visual_states is not None
    scorers: dict[Candidate, AnchorScore] = {}
    for state in AnchorState:
        cosine = Candidate(AnchorScoreKind.COSINE, layer, state, top_n)
        scorers[cosine] = cosine_score(prefill.visual_states, top_n, state)
        if read.visual_attention is None:
            continue
        attention = Candidate(AnchorScoreKind.ATTENTION, layer, state)
        scorers[attention] = attention_score(has_video, state)
    if layer == 0:
        scorers[Candidate(AnchorScoreKind.MARGIN)] = margin_score(has_video)
        scorers[Candidate(AnchorScoreKind.ENTROPY)] = entropy_score(has_video)
    return scorers


def _block(drafted: Sequence[int], read: ForwardOutput) -> VerifiedBlock:
    """The caption as if it had been drafted, after its first token."""
    return VerifiedBlock(
        drafted,
        [*drafted, drafted[-1]],
        read.logits[0],
        None if read.states is None else read.states[0],
        None if read.visual_attention is None else read.visual_attention[0],
    )


def _alternative(mismatch: Mismatch, read: ForwardOutput, drafted: ForwardOutput) -> VerifiedBlock:
    """A block of one token, the drafted one, after the caption so far."""
    before = mismatch.position - 1

    def rows(own: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
        if own is None or other is None:
            return None
        return torch.cat([own[0, before : before + 1], other[0, :1]])

    logits = rows(read.logits, drafted.logits)
    assert logits is not None
    return VerifiedBlock(
        [mismatch.drafted],
        [mismatch.choice, mismatch.choice],
        logits,
        rows(read.states, drafted.states),
        rows(read.visual_attention, drafted.visual_attention),
    )
