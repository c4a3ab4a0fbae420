"""The methods of the benchmark: what each is called, and the settings that make it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pipeline.speculation_config import (
    AnchorConfig,
    AnchorScoreKind,
    AnchorState,
    Drafter,
    DraftingConfig,
    FlyConfig,
    PruningPolicy,
    QuantileScope,
    SafetyConfig,
    SpeculationConfig,
    SpeculationMethod,
)

PLAIN = "autoregressive"
EXACT = "exact"
LVSPEC = "lvspec"
ORACLE = "oracle anchors"
RANDOM = "random relaxation"
SPECVLM_UNIFORM = "specvlm uniform"
SPECVLM_ATTENTION = "specvlm attention"
FLY = "fly"
GENERATE = "transformers generate"
ASSISTED = "transformers assisted"

PAPER_K = 10
MOST_K = 12
"""The most that an adaptive method may choose."""
_EXACT_START, _LOOSE_START = 5, 10
_SLOW = 4
"""Methods that are slower than plain decoding, and peers, decode every fourth group."""

_PLAIN = SpeculationConfig(method=SpeculationMethod.NONE)
_FIXED = DraftingConfig(adaptive=False)
_PRUNED = DraftingConfig(adaptive=False, keep_ratio=0.1)
_PAPER_ANCHORS = AnchorConfig(
    score=AnchorScoreKind.COSINE,
    state=AnchorState.PREDICTING,
    top_n=10,
    quantile_scope=QuantileScope.BLOCK,
    relaxed_share=0.7,
    shift_window=3,
)


class Runner(StrEnum):
    """What decodes."""

    ENGINE = "engine"
    DRAFT_ALONE = "draft alone"
    GENERATE = "generate"
    ASSISTED = "assisted generate"


@dataclass(frozen=True, slots=True)
class Method:
    """A way to decode. Its K is tuned from ``start_k``; or fixed; or that of another method.

    With none of the three it has no K, or chooses it itself. ``every``: see interleaved.Entry.
    """

    name: str
    about: str
    speculation: SpeculationConfig = _PLAIN
    runner: Runner = Runner.ENGINE
    start_k: int | None = None
    fixed_k: int | None = None
    same_k_as: str | None = None
    every: int = 1
    oracle: bool = False

    def at(self, k: int | None) -> SpeculationConfig:
        """The settings with this K."""
        if k is None:
            return self.speculation
        return self.speculation.model_copy(update={"num_speculative_tokens": k})


def lvspec_settings(calibration: str | None) -> SpeculationConfig:
    """Method safe with what the calibration says, or with the documented defaults."""
    return SpeculationConfig(
        method=SpeculationMethod.SAFE, calibration=calibration, drafting=_FIXED
    )


def main_methods(calibration: str | None, scope: QuantileScope) -> list[Method]:
    """Every method of the main table. ``scope`` is the one that the calibration chose."""
    exact = SpeculationConfig(method=SpeculationMethod.EXACT, drafting=_FIXED)
    lvspec = lvspec_settings(calibration)
    paper = SpeculationConfig(method=SpeculationMethod.PAPER, anchors=_PAPER_ANCHORS)
    paper_pruned = paper.model_copy(update={"drafting": _PRUNED})
    paper_whole = paper.model_copy(update={"drafting": _FIXED})
    by_attention = _PRUNED.model_copy(update={"pruning": PruningPolicy.ATTENTION})
    ngram = DraftingConfig(adaptive=False, drafter=Drafter.NGRAM)
    itself = DraftingConfig(adaptive=False, drafter=Drafter.SELF, keep_ratio=0.1)
    chosen = {"drafting": DraftingConfig(adaptive=True), "num_speculative_tokens": MOST_K}
    return [
        Method(PLAIN, "our loop without a draft"),
        Method(EXACT, "exact chain", exact, start_k=_EXACT_START),
        Method("exact, K of lvspec", "exact chain at lvspec's K", exact, same_k_as=LVSPEC),
        Method(
            SPECVLM_UNIFORM,
            "exact; the draft sees 10 % of the video tokens, evenly spread",
            exact.model_copy(update={"drafting": _PRUNED}),
            start_k=_EXACT_START,
        ),
        Method(
            SPECVLM_ATTENTION,
            "exact; the draft sees the 10 % that the target attends to most",
            exact.model_copy(update={"drafting": by_attention}),
            start_k=_EXACT_START,
        ),
        Method(
            FLY,
            "entropy gate .3, window 6",
            SpeculationConfig(method=SpeculationMethod.FLY, drafting=_FIXED),
            start_k=_LOOSE_START,
        ),
        Method(
            "paper",
            "the published rule, nothing added: cosine, block quantile, lambda .7, N 10, w 3, K 10,"
            " 90 % of the draft's video tokens pruned",
            paper_pruned,
            fixed_k=PAPER_K,
        ),
        Method("paper, whole draft", "the same, draft not pruned", paper_whole, fixed_k=PAPER_K),
        Method(
            "paper, whole draft, own K",
            "the same, draft not pruned, own best K",
            paper_whole,
            start_k=_LOOSE_START,
        ),
        Method(LVSPEC, "method safe, calibrated", lvspec, start_k=_LOOSE_START),
        random_relaxation(lvspec, scope),
        Method(
            "lvspec, adaptive",
            f"lvspec with K chosen from 0 to {MOST_K}",
            lvspec.model_copy(update=chosen),
        ),
        Method(
            "exact, adaptive",
            f"exact chain with K chosen from 0 to {MOST_K}",
            exact.model_copy(update=chosen),
        ),
        oracle_anchors(),
        Method(
            "n-gram",
            "exact; drafts looked up in this caption and in earlier ones",
            exact.model_copy(update={"drafting": ngram}),
            start_k=3,
            every=_SLOW,
        ),
        Method(
            "self-speculation",
            "exact; the target itself drafts on 10 % of the video tokens",
            exact.model_copy(update={"drafting": itself}),
            start_k=2,
            every=_SLOW,
        ),
        Method("draft alone", "floor of quality", runner=Runner.DRAFT_ALONE),
        Method(GENERATE, "transformers, greedy", runner=Runner.GENERATE, every=_SLOW),
        Method(
            ASSISTED,
            "transformers, greedy, assistant_model = draft, its own schedule of K",
            runner=Runner.ASSISTED,
            every=_SLOW,
        ),
    ]


def random_relaxation(lvspec: SpeculationConfig, scope: QuantileScope) -> Method:
    """The control: as many slots relaxed, by chance.

    A calibration knows the quantiles of its own score alone; where lvspec ranks by them, chance is
    ranked among the caption's own scores, which relaxes the same share.
    """
    own_scope = QuantileScope.RUNNING if scope is QuantileScope.CALIBRATED else scope
    anchors = {"score": AnchorScoreKind.RANDOM, "quantile_scope": own_scope}
    return Method(
        RANDOM,
        "lvspec at equal lambda with a random score",
        lvspec.model_copy(update={"anchors": lvspec.anchors.model_copy(update=anchors)}),
        start_k=_LOOSE_START,
    )


def oracle_anchors() -> Method:
    """Upper bound: strict where a fact of the sample world is at stake, and on the end."""
    anchors = AnchorConfig(
        score=AnchorScoreKind.RANDOM,  # replaced by the oracle
        quantile_scope=QuantileScope.BLOCK,
        relaxed_share=1.0,
        shift_window=0,
    )
    return Method(
        ORACLE,
        "upper bound: anchors by the sample world's own words and facts, lambda 1",
        SpeculationConfig(method=SpeculationMethod.PAPER, anchors=anchors, drafting=_FIXED),
        start_k=_LOOSE_START,
        oracle=True,
    )


def exactness_methods(k: int) -> list[Method]:
    """Those whose captions must be the target's own."""
    wanted = (PLAIN, EXACT, SPECVLM_UNIFORM, SPECVLM_ATTENTION, "n-gram", "self-speculation")
    wanted = (*wanted, "exact, adaptive", GENERATE, ASSISTED)
    methods = {m.name: m for m in main_methods(None, QuantileScope.BLOCK)}
    chosen = [replace(methods[name], every=1, same_k_as=None) for name in wanted]
    return [replace(m, start_k=None, fixed_k=k) if m.start_k else m for m in chosen]


def ablation_methods(calibration: str | None, scope: QuantileScope, k: int) -> list[Method]:
    """lvspec with one thing changed each; and N on the published rule, which has an N."""
    base = lvspec_settings(calibration)

    def changed(name: str, **updates: object) -> Method:
        return Method(name, name, base.model_copy(update=updates), fixed_k=k)

    def anchors(**updates: object) -> AnchorConfig:
        return base.anchors.model_copy(update=updates)

    own_scope = QuantileScope.RUNNING if scope is QuantileScope.CALIBRATED else scope
    methods = [
        Method(PLAIN, "our loop without a draft"),
        changed(LVSPEC),
        changed("no PST", anchors=anchors(shift_window=0)),
        changed("no guards", safety=SafetyConfig(guards=False)),
        changed("no floor", safety=SafetyConfig(floor_epsilon=0)),
        changed("no guards, no floor", safety=SafetyConfig(guards=False, floor_epsilon=0)),
        changed("deferred window 2", safety=SafetyConfig(deferred_window=2)),
        changed(
            "draft stops below .4", drafting=_FIXED.model_copy(update={"confidence_threshold": 0.4})
        ),
        replace(random_relaxation(base, scope), start_k=None, fixed_k=k),
    ]
    methods += [
        changed(f"scope {each}", anchors=anchors(quantile_scope=each)) for each in QuantileScope
    ]
    methods += [
        changed(f"score {each}", anchors=anchors(score=each, quantile_scope=own_scope))
        for each in AnchorScoreKind
        if each is not AnchorScoreKind.RANDOM
    ]
    methods += [
        changed(f"draft sees {ratio:.0%}", drafting=_FIXED.model_copy(update={"keep_ratio": ratio}))
        for ratio in (0.5, 0.25, 0.1)
    ]
    attentive = _PRUNED.model_copy(update={"pruning": PruningPolicy.ATTENTION})
    methods.append(changed("draft sees 10%, by attention", drafting=attentive))
    methods += [_paper_at(f"paper, N {n}", top_n=n) for n in (1, 10, 100)]
    methods.append(_paper_at("paper, no PST", shift_window=0))
    return methods


def _paper_at(name: str, **anchors: object) -> Method:
    settings = SpeculationConfig(
        method=SpeculationMethod.PAPER,
        anchors=_PAPER_ANCHORS.model_copy(update=anchors),
        drafting=_FIXED,
    )
    return Method(name, f"{name}, draft not pruned", settings, fixed_k=PAPER_K)


LAMBDAS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0)
FLY_THRESHOLDS = (0.0, 0.1, 0.3, 0.5, 0.8)


def frontier_methods(calibration: str | None, scope: QuantileScope, k: int) -> list[Method]:
    """Facts kept against speed: lvspec, the paper's rule and chance over lambda, FLy over its
    threshold.

    A name is ``<family> @ <value>``; families of one value are single points.
    """
    lvspec = lvspec_settings(calibration)
    chance = random_relaxation(lvspec, scope).speculation
    methods = [
        Method(PLAIN, "our loop without a draft"),
        Method(
            EXACT, "exact chain", SpeculationConfig(drafting=_FIXED), fixed_k=min(k, _EXACT_START)
        ),
        replace(oracle_anchors(), start_k=None, fixed_k=k),
    ]
    for family, base in ((LVSPEC, lvspec), (RANDOM, chance)):
        methods += [
            Method(
                f"{family} @ {value:g}",
                f"{family}, lambda {value:g}",
                _with_lambda(base, value),
                fixed_k=k,
            )
            for value in LAMBDAS
        ]
    methods += [
        replace(_paper_at(f"paper @ {value:g}", relaxed_share=value), fixed_k=k)
        for value in (0.3, 0.5, 0.7, 0.9)
    ]
    methods += [
        Method(
            f"{FLY} @ {value:g}",
            f"FLy, entropy threshold {value:g}",
            SpeculationConfig(
                method=SpeculationMethod.FLY,
                drafting=_FIXED,
                fly=FlyConfig(entropy_threshold=value),
            ),
            fixed_k=k,
        )
        for value in FLY_THRESHOLDS
    ]
    return methods


def _with_lambda(base: SpeculationConfig, value: float) -> SpeculationConfig:
    anchors = base.anchors.model_copy(update={"relaxed_share": value})
    return base.model_copy(update={"anchors": anchors})


def chosen_k(method: Method, tuned: dict[str, int]) -> int | None:
    """The K that a method runs at; one that is not tuned yet starts where its tuning would."""
    if method.fixed_k is not None:
        return method.fixed_k
    if method.same_k_as is not None:
        return tuned.get(method.same_k_as, _LOOSE_START)
    return None if method.start_k is None else tuned.get(method.name, method.start_k)


def names(methods: Sequence[Method]) -> list[str]:
    """Of the methods, in order."""
    return [method.name for method in methods]
