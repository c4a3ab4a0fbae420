"""From the configuration to the parts of the loop: the rules, the proposer, the length policy."""

from __future__ import annotations

from pipeline.config import GenerationConfig, SpeculationConfig, SpeculationMethod
from pipeline.decoding.acceptance import RowRule, exact_rule
from pipeline.decoding.length_policy import DraftLengthPolicy, FixedLength
from pipeline.decoding.model_proposer import ModelProposer
from pipeline.decoding.ngram_proposer import NgramProposer
from pipeline.decoding.proposer import Proposer
from pipeline.decoding.pruning import prune
from pipeline.decoding.request import CaptionRequest
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
        self._eos_token_ids = target.eos_token_ids
        self._num_layers = target.num_layers
        self._speculation = speculation
        num_tokens = speculation.num_speculative_tokens or 4
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
        return Taps(attention_layer=self._num_layers // 2 if self._prunes_by_attention else None)

    @property
    def keep_ratio(self) -> float:
        """Share of the video tokens in the drafting model's prompts."""
        return self._speculation.drafting.keep_ratio

    @property
    def relaxed_share(self) -> float | None:
        """The lambda in force; None if the method has none."""
        return None

    @property
    def exact_rule(self) -> RowRule:
        """The lossless rule, of shadows and of plain decoding too."""
        return exact_rule

    def row_rule(self, relaxed_share: float | None) -> RowRule:
        """The method's rule for a row, with the lambda in force."""
        del relaxed_share
        if self.is_loose:
            raise NotImplementedError(f"method {self._speculation.method} has no rule yet")
        return exact_rule

    def proposer(self, draft_session: DecodeSession | None) -> Proposer | None:
        """What proposes tokens in one batch; None: nothing does."""
        if draft_session is None:
            return self._ngram
        return ModelProposer(
            draft_session,
            self._draft_prompt,
            self._eos_token_ids,
            confidence_threshold=self._speculation.drafting.confidence_threshold,
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
