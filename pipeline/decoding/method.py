"""From the configuration to the parts of the loop: the rules, the proposer, the length policy."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import GenerationConfig, SpeculationConfig, SpeculationMethod
from pipeline.decoding.acceptance import RowRule
from pipeline.decoding.calibration import load_calibration, resolve
from pipeline.decoding.length_policy import DraftLengthPolicy, FixedLength
from pipeline.decoding.model_proposer import ModelProposer
from pipeline.decoding.ngram_proposer import NgramProposer
from pipeline.decoding.proposer import Proposer
from pipeline.decoding.pruning import prune
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.rules import Rules, Vocabulary
from pipeline.decoding.score_choice import ScoreOfRow, taps_for
from pipeline.decoding.session import DecodeSession, ModelInputs, PrefillOutput, Taps
from pipeline.decoding.sessions import DecodingModel
from pipeline.speculation_config import Drafter, PruningPolicy


class DecodingMethod:
    """What the configuration says of one engine, made once and used for all its batches.

    Raises ValueError if the method needs a draft model that there is not, or one of another
    vocabulary.
    """

    def __init__(
        self,
        target: DecodingModel,
        draft: DecodingModel | None,
        generation: GenerationConfig,
        speculation: SpeculationConfig,
        score_of_row: ScoreOfRow | None = None,
    ) -> None:
        drafting = speculation.drafting
        method = speculation.method
        self.speculates = method is not SpeculationMethod.NONE
        self.is_loose = method.is_loose
        self.drafts_itself = self.speculates and drafting.drafter is Drafter.SELF
        self.drafting_model: DecodingModel | None = None
        if self.drafts_itself:
            self.drafting_model = target
        elif self.speculates and drafting.drafter is Drafter.MODEL:
            if draft is None:
                raise ValueError(
                    f"speculation.method {method} needs models.draft; name one, or set the method "
                    f"to {SpeculationMethod.NONE} or speculation.drafting.drafter to "
                    f"{Drafter.SELF} or {Drafter.NGRAM}"
                )
            if target.vocab_size != draft.vocab_size:
                raise ValueError(
                    f"target and draft vocabularies differ: {target.vocab_size}, {draft.vocab_size}"
                )
            self.drafting_model = draft
        self.greedy = generation.temperature == 0
        self._generation = generation
        self._eos_token_ids = target.eos_token_ids
        self._num_layers = target.num_layers
        calibration, lexicon = None, None
        if speculation.calibration is not None:
            calibration, values = load_calibration(Path(speculation.calibration))
            lexicon = values.tolist()
        speculation = resolve(speculation, calibration, target.num_layers)
        self._speculation = speculation
        self._rules = Rules(
            speculation,
            generation,
            Vocabulary(target.token_texts(), target.eos_token_ids, target.special_token_ids),
            calibration,
            lexicon,
            score_of_row,
        )
        num_tokens = speculation.num_speculative_tokens or 0
        self.lengths: DraftLengthPolicy = FixedLength(num_tokens if self.speculates else 0)
        self._ngram: NgramProposer | None = None
        if self.speculates and drafting.drafter is Drafter.NGRAM:
            self._ngram = NgramProposer(
                target.eos_token_ids,
                longest=drafting.prompt_lookup_max,
                shortest=drafting.prompt_lookup_min,
                remembers=not self.is_loose and self.greedy,
            )

    @property
    def taps(self) -> Taps:
        """What the target must report for the rules and for the pruning."""
        taps = taps_for(self._speculation)
        if self._prunes_by_attention and taps.attention_layer is None:
            return Taps(taps.states_layer, self._num_layers // 2)
        return taps

    @property
    def keep_ratio(self) -> float:
        """Share of the video tokens in the drafting model's prompts."""
        return self._speculation.drafting.keep_ratio

    @property
    def relaxed_share(self) -> float | None:
        """The lambda in force; None if the method has none."""
        has_anchors = self._speculation.method in (SpeculationMethod.PAPER, SpeculationMethod.SAFE)
        return self._speculation.anchors.relaxed_share if has_anchors else None

    @property
    def exact_rule(self) -> RowRule:
        """The lossless rule, of shadows and of plain decoding too."""
        return self._rules.exact

    def row_rule(self, relaxed_share: float | None) -> RowRule:
        """The method's rule for a row, with the lambda in force."""
        return self._rules.of(relaxed_share)

    def proposer(self, draft_session: DecodeSession | None) -> Proposer | None:
        """What proposes tokens in one batch; None: nothing does."""
        if draft_session is None:
            return self._ngram
        return ModelProposer(
            draft_session,
            self._draft_prompt,
            self._eos_token_ids,
            confidence_threshold=self._speculation.drafting.confidence_threshold,
            temperature=self._generation.temperature,
            seed=self._generation.seed,
        )

    @property
    def _prunes_by_attention(self) -> bool:
        drafting = self._speculation.drafting
        by_attention = drafting.pruning is PruningPolicy.ATTENTION and drafting.keep_ratio < 1
        return self.drafting_model is not None and by_attention

    def _draft_prompt(self, request: CaptionRequest, prefill: PrefillOutput) -> ModelInputs:
        inputs = request.target if self.drafts_itself else request.draft
        if inputs is None:
            raise ValueError(f"clip {request.clip_id} has no draft inputs")
        drafting = self._speculation.drafting
        return prune(inputs, drafting.keep_ratio, drafting.pruning, prefill.visual_attention)
