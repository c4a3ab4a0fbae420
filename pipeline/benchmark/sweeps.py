"""Variations of the methods: what must be lossless, ablations, and the sweeps of the frontier."""

from __future__ import annotations

from dataclasses import replace

from pipeline.benchmark.methods import (
    ASSISTED,
    EXACT,
    EXACT_ADAPTIVE,
    EXACT_START,
    FIXED,
    FLY,
    GENERATE,
    LVSPEC,
    PAPER_ANCHORS,
    PAPER_K,
    PLAIN,
    PRUNED,
    RANDOM,
    SPECVLM_ATTENTION,
    SPECVLM_UNIFORM,
    Calibrated,
    Method,
    main_methods,
    oracle_anchors,
    random_relaxation,
)
from pipeline.speculation_config import (
    AnchorConfig,
    AnchorScoreKind,
    FlyConfig,
    PruningPolicy,
    QuantileScope,
    SafetyConfig,
    SpeculationConfig,
    SpeculationMethod,
)

NEVER_STOPS = "lvspec, draft never stops"


def exactness_methods(k: int) -> list[Method]:
    """Those whose captions must be the target's own."""
    wanted = [PLAIN, EXACT, SPECVLM_UNIFORM, SPECVLM_ATTENTION, "n-gram", "self-speculation"]
    wanted += [EXACT_ADAPTIVE, GENERATE, ASSISTED]
    methods = {m.name: m for m in main_methods(Calibrated())}
    chosen = [replace(methods[name], every=1, same_k_as=None) for name in wanted]
    return [replace(m, start_k=None, fixed_k=k) if m.start_k else m for m in chosen]


def ablation_methods(calibrated: Calibrated, k: int) -> list[Method]:
    """lvspec with one thing changed each; and N on the published rule, which has an N."""
    base = calibrated.settings

    def changed(name: str, **updates: object) -> Method:
        return Method(name, name, base.model_copy(update=updates), fixed_k=k)

    def anchors(**updates: object) -> AnchorConfig:
        return base.anchors.model_copy(update=updates)

    methods = [
        Method(PLAIN, "our loop without a draft"),
        changed(LVSPEC),
        *(
            changed(f"PST, window {w}" if w else "no PST", anchors=anchors(shift_window=w))
            for w in (0, 1, 3)
        ),
        changed("no guards", safety=SafetyConfig(guards=False)),
        changed("no floor", safety=SafetyConfig(floor_epsilon=0)),
        changed("no guards, no floor", safety=SafetyConfig(guards=False, floor_epsilon=0)),
        changed("deferred window 2", safety=SafetyConfig(deferred_window=2)),
        *(
            changed(
                f"draft stops below {doubt:g}" if doubt else "draft never stops",
                drafting=FIXED.model_copy(update={"confidence_threshold": doubt}),
            )
            for doubt in (0.0, 0.4, 0.6, 0.8)
        ),
        replace(random_relaxation(calibrated), start_k=None, fixed_k=k),
    ]
    methods += [
        changed(f"scope {each}", anchors=anchors(quantile_scope=each)) for each in QuantileScope
    ]
    methods += [
        changed(f"score {each}", anchors=anchors(score=each, quantile_scope=calibrated.own_scope))
        for each in AnchorScoreKind
        if each is not AnchorScoreKind.RANDOM
    ]
    methods += [
        changed(f"draft sees {ratio:.0%}", drafting=FIXED.model_copy(update={"keep_ratio": ratio}))
        for ratio in (0.5, 0.25, 0.1)
    ]
    attentive = PRUNED.model_copy(update={"pruning": PruningPolicy.ATTENTION})
    methods.append(changed("draft sees 10%, by attention", drafting=attentive))
    methods += [_paper_at(f"paper, N {n}", top_n=n) for n in (1, 10, 100)]
    methods.append(_paper_at("paper, no PST", shift_window=0))
    return methods


def _paper_at(name: str, **anchors: object) -> Method:
    settings = SpeculationConfig(
        method=SpeculationMethod.PAPER,
        anchors=PAPER_ANCHORS.model_copy(update=anchors),
        drafting=FIXED,
    )
    return Method(name, f"{name}, draft not pruned", settings, fixed_k=PAPER_K)


BLOCK_LENGTHS = (8, 16, 20, 24, 28, 32)


def length_methods(calibrated: Calibrated) -> list[Method]:
    """Accepted length and speed over K: the exact chain, lvspec, and lvspec whose draft never
    stops, which has the longest accepted runs and is not the fastest."""
    never = FIXED.model_copy(update={"confidence_threshold": 0.0})
    families = (
        (EXACT, "exact chain", SpeculationConfig(drafting=FIXED)),
        (LVSPEC, "lvspec", calibrated.settings),
        (NEVER_STOPS, NEVER_STOPS, calibrated.settings.model_copy(update={"drafting": never})),
    )
    by_name = {method.name: method for method in main_methods(calibrated)}
    return [
        by_name[PLAIN],
        replace(by_name[SPECVLM_UNIFORM], start_k=None, fixed_k=EXACT_START),
        *(
            Method(f"{name} @ {k}", f"{about}, K {k}", settings, fixed_k=k)
            for name, about, settings in families
            for k in BLOCK_LENGTHS
        ),
    ]


LAMBDAS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 1.0)
FLY_THRESHOLDS = (0.3, 0.6, 0.8, 0.9, 1.0, 1.05)  # at most ln 3


def frontier_methods(calibrated: Calibrated, k: int) -> list[Method]:
    """Facts kept against speed: lvspec, the paper's rule and chance over lambda, FLy over its
    threshold.

    A name is ``<family> @ <value>``; families of one value are single points.
    """
    lvspec = calibrated.settings
    chance = random_relaxation(calibrated).speculation
    methods = [
        Method(PLAIN, "our loop without a draft"),
        Method(
            EXACT, "exact chain", SpeculationConfig(drafting=FIXED), fixed_k=min(k, EXACT_START)
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
                drafting=FIXED,
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
