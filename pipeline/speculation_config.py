"""The configuration of speculative decoding (docs/method.md, sections 3 to 6).

A field that is None takes the value of the calibration file if one is named and the method has
anchors, else the default that its description gives (pipeline/decoding/calibration.py).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from pipeline.config_section import Section


class SpeculationMethod(StrEnum):
    """Which drafted tokens are kept."""

    NONE = "none"
    EXACT = "exact"
    PAPER = "paper"
    SAFE = "safe"
    FLY = "fly"

    @property
    def is_loose(self) -> bool:
        """Whether captions may differ from the target's own."""
        return self not in (SpeculationMethod.NONE, SpeculationMethod.EXACT)

    @property
    def has_anchors(self) -> bool:
        """Whether an anchor score decides which tokens are strict."""
        return self in (SpeculationMethod.PAPER, SpeculationMethod.SAFE)


class Drafter(StrEnum):
    """What proposes tokens."""

    MODEL = "model"
    SELF = "self"
    NGRAM = "ngram"


class PruningPolicy(StrEnum):
    """Which video tokens the draft keeps."""

    UNIFORM = "uniform"
    ATTENTION = "attention"


class AnchorScoreKind(StrEnum):
    """What tells how visual a token is; high is an anchor."""

    COSINE = "cosine"
    ATTENTION = "attention"
    MARGIN = "margin"
    LEXICON = "lexicon"
    LEXICON_COSINE = "lexicon_cosine"
    LEXICON_ATTENTION = "lexicon_attention"
    LEXICON_MARGIN = "lexicon_margin"
    ENTROPY = "entropy"
    RANDOM = "random"

    @property
    def has_lexicon(self) -> bool:
        """Whether it reads the visual lexicon of a calibration."""
        return self.value.startswith("lexicon")


class AnchorState(StrEnum):
    """Which verified row's state (or attention) scores a drafted token."""

    PREDICTING = "predicting"
    TOKEN = "token"
    EITHER = "either"


class QuantileScope(StrEnum):
    """Among which scores a token's rank is taken."""

    BLOCK = "block"
    RUNNING = "running"
    CALIBRATED = "calibrated"


class DraftingConfig(Section):
    """How tokens are proposed."""

    drafter: Drafter = Drafter.MODEL
    """model: models.draft; self: the target on pruned video tokens; ngram: earlier text."""
    keep_ratio: float = Field(default=1.0, gt=0, le=1)
    """Share of the video tokens that the draft sees (SpecVLM and the paper: 0.1)."""
    pruning: PruningPolicy = PruningPolicy.UNIFORM
    """uniform: evenly spread; attention: those that the target attends to most."""
    confidence_threshold: float | None = Field(default=None, ge=0, lt=1)
    """A draft stops once its own probability of a token falls below this; default 0, which never
    stops it. With anchors and a calibration only visual tokens count: fillers may pass."""
    adaptive: bool = False
    """Choose each round's number of tokens, 0 to num_speculative_tokens, from measured costs and
    acceptance. Loose captions then depend on how fast the machine was."""
    prompt_lookup_max: int = Field(default=4, ge=1)
    """ngram: longest suffix that is looked up, tokens."""
    prompt_lookup_min: int = Field(default=2, ge=1)
    """ngram: shortest suffix that is looked up, tokens."""

    @model_validator(mode="after")
    def _lookups_are_ordered(self) -> Self:
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise ValueError(
                f"prompt_lookup_min {self.prompt_lookup_min} > prompt_lookup_max "
                f"{self.prompt_lookup_max}: lower --speculation.drafting.prompt-lookup-min or "
                "raise --speculation.drafting.prompt-lookup-max"
            )
        return self

    @model_validator(mode="after")
    def _self_drafts_are_cheaper(self) -> Self:
        if self.drafter is Drafter.SELF and self.keep_ratio == 1:
            raise ValueError(
                "drafter = self with keep_ratio 1 drafts what the target says anyway, at its "
                "price: set --speculation.drafting.keep-ratio below 1 (0.1, say), or another "
                "drafter"
            )
        return self


class AnchorConfig(Section):
    """Which tokens are anchors (paper and safe)."""

    score: AnchorScoreKind | None = None
    """What tells how visual a token is; default cosine, the paper's."""
    layer: int | None = Field(default=None, ge=0)
    """Decoder layer of the states or of the attention; default: the middle one."""
    state: AnchorState | None = None
    """Which state scores a drafted token; default predicting."""
    top_n: int | None = Field(default=None, ge=1)
    """cosine: mean over this many most similar video tokens (N); default 10."""
    quantile_scope: QuantileScope | None = None
    """block: rank among this draft's tokens; running: among the caption's so far; calibrated:
    among the calibration set's; default block."""
    relaxed_share: float | None = Field(default=None, ge=0, le=1)
    """Share of tokens, those of the lowest scores, that are fillers (lambda); default 0.7."""
    shift_window: int | None = Field(default=None, ge=0)
    """An anchor may come this many tokens early (w, position-shift tolerance); 0 is off;
    default 3."""


class SafetyConfig(Section):
    """What method safe adds to paper."""

    guards: bool = True
    """End of sequence, special tokens, digits, number words and negations are always strict."""
    floor_epsilon: float = Field(default=0.09, ge=0, le=1)
    """A filler needs a target probability above min(epsilon, delta * exp(-entropy)) ..."""
    floor_delta: float = Field(default=0.3, ge=0)
    """... with this delta; epsilon or delta 0 switches the floor off."""
    deferred_window: int = Field(default=0, ge=0)
    """A filler is kept only if none of this many tokens after it differs too; 0 is off."""


class FlyConfig(Section):
    """Method fly: entropy gate and deferred window of the FLy baseline."""

    entropy_threshold: float = Field(default=0.3, ge=0)
    """A mismatch is strict where the entropy of the target's three likeliest tokens is below."""
    window: int = Field(default=6, ge=1)
    """No second mismatch within this many tokens, the first one included."""


class FidelityConfig(Section):
    """The promise on what loose decoding costs; a share of clips is also decoded exactly."""

    shadow_share: float = Field(default=0.0, ge=0, le=1)
    """Share of clips (chosen by clip_id) also decoded exactly, to track the facts kept; 0 tracks
    and promises nothing."""
    min_facts_kept: float | None = Field(default=None, ge=0, le=1)
    """Least mean share of facts kept: lambda is tightened, down to exact decoding, when shadows
    show less. Facts are told by the calibration's lexicon, to which another wording is another
    fact; None: what the calibration's choice kept by that measure, less 0.01; 0 promises nothing
    and needs no calibration."""
    min_clips: int = Field(default=20, ge=1)
    """Shadowed clips before the promise is judged."""


class SpeculationConfig(Section):
    """How tokens are decided."""

    method: SpeculationMethod = SpeculationMethod.EXACT
    """none: the target alone; exact: a draft proposes and the caption is the target's own; paper:
    exact on anchors, loose on fillers; safe: paper with guards; fly: loose by entropy."""
    num_speculative_tokens: int | None = Field(default=None, ge=1, le=64)
    """K: most tokens that the draft proposes per target step; default 4."""
    plain_share: float = Field(default=0.0, ge=0, le=1)
    """Share of clips (chosen by clip_id) also decoded plainly, to compare text and time."""
    calibration: str | None = None
    """Calibration file of this pair (jobs/calibrate.py)."""
    drafting: DraftingConfig = DraftingConfig()
    """How tokens are proposed."""
    anchors: AnchorConfig = AnchorConfig()
    """Which tokens are anchors."""
    safety: SafetyConfig = SafetyConfig()
    """What method safe adds to paper."""
    fly: FlyConfig = FlyConfig()
    """Method fly."""
    fidelity: FidelityConfig = FidelityConfig()
    """What loose decoding costs."""

    @property
    def needs_draft_model(self) -> bool:
        """Whether models.draft proposes tokens."""
        return self.method is not SpeculationMethod.NONE and self.drafting.drafter is Drafter.MODEL

    @model_validator(mode="after")
    def _anchors_have_their_calibration(self) -> Self:
        if self.calibration is not None or not self.method.has_anchors:
            return self
        score, scope = self.anchors.score, self.anchors.quantile_scope
        remedy = "name one by --calibration (jobs/calibrate.py writes it)"
        if score is not None and score.has_lexicon:
            raise ValueError(
                f"anchors.score = {score} needs the visual lexicon of a calibration file: "
                f"{remedy}, or set --speculation.anchors.score to cosine or attention"
            )
        if scope is QuantileScope.CALIBRATED:
            raise ValueError(
                "anchors.quantile_scope = calibrated needs the score quantiles of a calibration "
                f"file: {remedy}, or set --speculation.anchors.quantile-scope to block or running"
            )
        return self
