"""From the settings of a method to the rule of each row.

Every rule names its objections to a block's mismatches; the walk over the block (loose.py) or, at a
temperature, the lossless test (sampling.py) does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

from pipeline.config import GenerationConfig
from pipeline.decoding.acceptance import (
    Acceptance,
    AcceptanceRule,
    RejectionCause,
    RowRule,
    TokenKind,
    VerifiedBlock,
    exact_rule,
)
from pipeline.decoding.anchor_scores import AnchorScore
from pipeline.decoding.calibration import Calibration
from pipeline.decoding.guards import guarded_token_ids
from pipeline.decoding.loose import (
    NO_SHIFTS,
    Objections,
    Shifts,
    below_floor,
    certain,
    differs_again,
    mismatches,
    walk,
)
from pipeline.decoding.quantile import Ranking, is_filler, ranking
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.sampling import LosslessTest, seeded_generator
from pipeline.decoding.score_choice import ScoreOfRow, score_of_row_for
from pipeline.decoding.session import PrefillOutput
from pipeline.speculation_config import SafetyConfig, SpeculationConfig, SpeculationMethod


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What rules must know of the tokens: texts [V], ids that end a caption, special ids."""

    texts: Sequence[str]
    eos_token_ids: frozenset[int]
    special_token_ids: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What a rule thinks of a block: objections to its mismatches, and its scores if it has any."""

    objections: Objections
    scores: tuple[float, ...] = ()
    ranks: tuple[float, ...] = ()
    num_anchors: int = 0


Judge = Callable[[VerifiedBlock], Judgement]


class Rules:
    """Makes the rules of one engine's rows; ``speculation`` is resolved (calibration.resolve).

    ``score_of_row`` replaces the configured score, for scores that no recipe can name (an oracle).
    Raises ValueError if the score or its scope needs a calibration that there is not.
    """

    def __init__(
        self,
        speculation: SpeculationConfig,
        generation: GenerationConfig,
        vocabulary: Vocabulary,
        calibration: Calibration | None = None,
        lexicon: Sequence[float] | None = None,
        score_of_row: ScoreOfRow | None = None,
    ) -> None:
        self._speculation = speculation
        self._generation = generation
        self._eos_token_ids = vocabulary.eos_token_ids
        self._calibration = calibration
        self._guarded: frozenset[int] = frozenset()
        if speculation.method is SpeculationMethod.SAFE and speculation.safety.guards:
            always = vocabulary.eos_token_ids | vocabulary.special_token_ids
            self._guarded = guarded_token_ids(vocabulary.texts, always)
        self._score_of_row = score_of_row
        if speculation.method in (SpeculationMethod.PAPER, SpeculationMethod.SAFE):
            self._score_of_row = score_of_row or score_of_row_for(
                speculation.anchors, calibration, lexicon, generation.seed
            )
            self._ranking()  # says at once if the scope lacks its calibration

    def sampled_as(self, temperature: float, seed: int) -> Rules:
        """The same rules for rows of another temperature and seed."""
        rules = copy(self)
        rules._generation = self._generation.model_copy(
            update={"temperature": temperature, "seed": seed}
        )
        return rules

    @property
    def exact(self) -> RowRule:
        """The lossless rule: greedy, or sampled at the configured temperature."""
        if self._generation.temperature == 0:
            return exact_rule
        return lambda request, _: self._sampled(request, _exact_judge)

    def of(self, relaxed_share: float | None) -> RowRule:
        """The method's rule with the lambda in force, which only paper and safe have."""
        method = self._speculation.method
        if not method.is_loose:
            return self.exact
        if method is SpeculationMethod.FLY:
            return lambda request, _: self._rule(request, self._judge_as_fly, NO_SHIFTS)
        lambda_ = (
            self._speculation.anchors.relaxed_share if relaxed_share is None else relaxed_share
        )
        assert lambda_ is not None
        is_safe = method is SpeculationMethod.SAFE
        shifts = Shifts(
            self._speculation.anchors.shift_window or 0,
            # Guards are strict in place: the end, too, is never put off.
            frozenset([RejectionCause.GUARD]) if is_safe else frozenset(),
        )

        def row_rule(request: CaptionRequest, prefill: PrefillOutput) -> AcceptanceRule:
            assert self._score_of_row is not None
            judge = _anchor_judge(
                self._score_of_row(request, prefill),
                self._ranking(),
                lambda_,
                self._speculation.safety if is_safe else None,
                self._guarded,
            )
            return self._rule(request, judge, shifts)

        return row_rule

    def _ranking(self) -> Ranking:
        scope = self._speculation.anchors.quantile_scope
        assert scope is not None
        return ranking(scope, self._calibration.score_quantiles if self._calibration else ())

    def _judge_as_fly(self, block: VerifiedBlock) -> Judgement:
        positions = mismatches(block)
        fly = self._speculation.fly
        again = differs_again(positions, fly.window - 1)
        sure = certain(block, positions, fly.entropy_threshold)
        objections: Objections = dict.fromkeys(positions)
        objections |= dict.fromkeys(again, RejectionCause.DEFERRED)
        objections |= dict.fromkeys(sure, RejectionCause.ENTROPY)
        return Judgement(objections)

    def _rule(self, request: CaptionRequest, judge: Judge, shifts: Shifts) -> AcceptanceRule:
        if self._generation.temperature > 0:
            return self._sampled(request, judge)

        def accept(block: VerifiedBlock) -> Acceptance:
            judgement = judge(block)
            kinds, cause = walk(block, judgement.objections, self._eos_token_ids, shifts)
            return Acceptance(
                kinds, cause, judgement.num_anchors, judgement.scores, judgement.ranks
            )

        return accept

    def _sampled(self, request: CaptionRequest, judge: Judge) -> AcceptanceRule:
        """Anchors by the lossless test, fillers as drafted; shifts need a greedy choice, so none.

        The greedy test and sampled drafts are never mixed: an objection sends the token to the
        lossless test, whether or not it is the target's likeliest.
        """
        generator = seeded_generator(self._generation.seed, request.clip_id)
        temperature = self._generation.temperature

        def accept(block: VerifiedBlock) -> Acceptance:
            judgement = judge(block)
            test = LosslessTest(block, temperature, generator)
            kinds: list[TokenKind] = []
            cause, following = None, None
            for j, token in enumerate(block.drafted):
                if test.accepts(j):
                    kinds.append(TokenKind.EXACT)
                elif judgement.objections.get(j, RejectionCause.MISMATCH) is None:
                    kinds.append(TokenKind.RELAXED)
                else:
                    cause = judgement.objections.get(j) or RejectionCause.MISMATCH
                    following = test.replacement(j)
                    break
                if token in self._eos_token_ids:
                    break
            if cause is None and not (
                kinds and block.drafted[len(kinds) - 1] in self._eos_token_ids
            ):
                following = test.target_token(len(kinds))
            return Acceptance(
                tuple(kinds),
                cause,
                judgement.num_anchors,
                judgement.scores,
                judgement.ranks,
                following,
            )

        return accept


def _exact_judge(block: VerifiedBlock) -> Judgement:
    return Judgement(dict.fromkeys(mismatches(block), RejectionCause.MISMATCH))


def _anchor_judge(
    score: AnchorScore,
    rank: Ranking,
    relaxed_share: float,
    safety: SafetyConfig | None,
    guarded: frozenset[int],
) -> Judge:
    """Anchors are strict; in safe mode so are guarded, unlikely and repeated disagreements."""

    def judge(block: VerifiedBlock) -> Judgement:
        if not block.drafted:
            return Judgement({})
        scores = tuple(score(block))
        ranks = tuple(rank(scores))
        fillers = [is_filler(s, r, relaxed_share) for s, r in zip(scores, ranks)]
        positions = mismatches(block)
        objections: Objections = {
            j: None if fillers[j] else RejectionCause.ANCHOR for j in positions
        }
        if safety is not None and positions:
            loose = [j for j in positions if fillers[j]]
            low = below_floor(block, loose, safety.floor_epsilon, safety.floor_delta)
            again = differs_again(positions, safety.deferred_window)
            objections |= dict.fromkeys(again & set(loose), RejectionCause.DEFERRED)
            objections |= dict.fromkeys(low, RejectionCause.FLOOR)
            for j in positions:
                if block.drafted[j] in guarded or block.choices[j] in guarded:
                    objections[j] = RejectionCause.GUARD
        return Judgement(objections, scores, ranks, fillers.count(False))

    return judge
