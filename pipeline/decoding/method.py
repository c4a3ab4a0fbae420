"""From the configuration to the parts of the loop: the rules, the proposer, the length policy."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import GenerationConfig, SpeculationConfig, SpeculationMethod
from pipeline.decoding.acceptance import RowRule
from pipeline.decoding.calibration import Calibration, load_calibration, resolve
from pipeline.decoding.draft_length import AdaptiveLength
from pipeline.decoding.facts import FactExtractor, VisualWords, facts_kept
from pipeline.decoding.fidelity import LOSSLESS, FidelityBudget, Rung, ladder
from pipeline.decoding.length_policy import DraftLengthPolicy, FixedLength
from pipeline.decoding.model_proposer import ModelProposer
from pipeline.decoding.ngram_proposer import NgramProposer
from pipeline.decoding.proposer import Proposer
from pipeline.decoding.pruning import prune
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodedRow
from pipeline.decoding.rules import Rules, Vocabulary
from pipeline.decoding.score_choice import ScoreOfRow, taps_for
from pipeline.decoding.session import DecodeSession, ModelInputs, PrefillOutput, Taps
from pipeline.decoding.sessions import DecodingModel, SessionPair
from pipeline.speculation_config import Drafter, PruningPolicy

_MIN_FACTS_KEPT = 0.998
_WORDS_MARGIN = 0.01


class DecodingMethod:
    """What the configuration says of one engine, made once and used for all its batches.

    ``score_of_row`` replaces the configured anchor score, ``facts`` the lexicon's way to tell facts
    (CaptionEngine says what for). ``lengths`` and ``budget`` learn as rows are decoded. Raises
    ValueError if the method needs a draft model that there is not, or one of another vocabulary,
    or if there is a promise on facts and nothing to tell facts by.
    """

    def __init__(
        self,
        target: DecodingModel,
        draft: DecodingModel | None,
        generation: GenerationConfig,
        speculation: SpeculationConfig,
        score_of_row: ScoreOfRow | None = None,
        facts: FactExtractor | None = None,
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
        if self.speculates and drafting.adaptive:
            self.lengths = AdaptiveLength(num_tokens)
        self._doubted_ids: frozenset[int] | None = None
        if calibration is not None and lexicon is not None and method.has_anchors:
            threshold = calibration.visual_threshold
            self._doubted_ids = frozenset(i for i, v in enumerate(lexicon) if v > threshold)
        self._decode_text = target.decode_text
        self._facts = facts
        has_shadows = self.is_loose and speculation.fidelity.shadow_share > 0
        if facts is None and has_shadows and calibration is not None and lexicon is not None:
            self._facts = VisualWords(target.token_texts(), lexicon, calibration.visual_threshold)
        self.budget = self._fidelity_budget(calibration) if self.is_loose else None
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

    def sessions(self, target: DecodingModel, prefix_cache_bytes: int = 0) -> SessionPair:
        """Where the target and what drafts for it are decoded, none open yet."""
        generation = self._generation
        return SessionPair(
            target,
            self.drafting_model,
            taps=self.taps,
            max_tokens=generation.max_tokens,
            max_num_seqs=generation.max_num_seqs,
            kv_cache_memory_bytes=generation.kv_cache_memory_bytes,
            draft_keep_ratio=self._speculation.drafting.keep_ratio,
            draft_is_target=self.drafts_itself,
            prefix_cache_bytes=prefix_cache_bytes,
        )

    @property
    def rung(self) -> Rung:
        """How loosely rows that are admitted now are decoded."""
        return self.budget.rung if self.budget else LOSSLESS

    def facts_kept(self, row: DecodedRow, exact: DecodedRow) -> float | None:
        """Of the exact row's facts; None where there is nothing to tell facts by."""
        if self._facts is None:
            return None
        loose, strict = (
            self._facts(ids, self._decode_text(ids)) for ids in (row.token_ids, exact.token_ids)
        )
        return facts_kept(loose, strict)

    @property
    def exact_rule(self) -> RowRule:
        """The lossless rule, of shadows and of plain decoding too."""
        return self._rules.exact

    def row_rule(self, rung: Rung) -> RowRule:
        """The method's rule for a row."""
        return self._rules.exact if rung.is_exact else self._rules.of(rung.relaxed_share)

    def rule_as(self, temperature: float, seed: int, exact: bool) -> RowRule:
        """The rule of a row that is not decoded as the configuration says."""
        rules = self._rules.sampled_as(temperature, seed)
        rung = LOSSLESS if exact else self.rung
        return rules.exact if rung.is_exact else rules.of(rung.relaxed_share)

    def proposer(self, draft_session: DecodeSession | None) -> Proposer | None:
        """What proposes tokens in one batch; None: nothing does."""
        if draft_session is None:
            return self._ngram
        return ModelProposer(
            draft_session,
            self._draft_prompt,
            self._eos_token_ids,
            confidence_threshold=self._speculation.drafting.confidence_threshold or 0.0,
            doubted_ids=self._doubted_ids,
            temperature=self._generation.temperature,
            seed=self._generation.seed,
        )

    def _fidelity_budget(self, calibration: Calibration | None) -> FidelityBudget:
        fidelity = self._speculation.fidelity
        promise = fidelity.min_facts_kept
        if promise is None:
            # Of a better extractor than the lexicon's nothing was measured.
            promise = _MIN_FACTS_KEPT
            if calibration is not None and isinstance(self._facts, VisualWords):
                promise = max(0.0, calibration.visual_words_kept - _WORDS_MARGIN)
        if fidelity.shadow_share > 0 and promise > 0 and self._facts is None:
            raise ValueError(
                "speculation.fidelity.min_facts_kept needs speculation.calibration, by whose "
                "lexicon facts are told: name one (jobs/calibrate.py), or set min_facts_kept to 0 "
                "to compare captions only"
            )
        has_lambda = self._speculation.method.has_anchors
        relaxed_share = self._speculation.anchors.relaxed_share if has_lambda else None
        return FidelityBudget(ladder(relaxed_share), promise, fidelity.min_clips)

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
