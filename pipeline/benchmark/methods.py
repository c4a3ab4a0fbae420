"""The methods of the benchmark: what each is called, and the settings that make it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from pipeline.speculation_config import (
    AnchorConfig,
    AnchorScoreKind,
    AnchorState,
    Drafter,
    DraftingConfig,
    PruningPolicy,
    QuantileScope,
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
LVSPEC_ADAPTIVE = "lvspec, adaptive"
EXACT_ADAPTIVE = "exact, adaptive"
FLY = "fly"
GENERATE = "transformers generate"
ASSISTED = "transformers assisted"

PAPER_K = 10
MOST_K = 24
"""The most that an adaptive method may choose."""
EXACT_START, LOOSE_START = 5, 10
_SLOW = 4
"""Methods that are slower than plain decoding, and peers, decode every fourth group."""

_PLAIN = SpeculationConfig(method=SpeculationMethod.NONE)
FIXED = DraftingConfig()
PRUNED = DraftingConfig(keep_ratio=0.1)
PAPER_ANCHORS = AnchorConfig(
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


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The calibrated rule: its file, and what it chose that the controls must follow.

    Without a file it is method safe at the documented defaults.
    """

    path: str | None = None
    method: SpeculationMethod = SpeculationMethod.SAFE
    scope: QuantileScope = QuantileScope.BLOCK
    k: int = LOOSE_START

    @property
    def settings(self) -> SpeculationConfig:
        """As a recipe that names the file would have them, at a fixed K."""
        return SpeculationConfig(method=self.method, calibration=self.path, drafting=FIXED)

    @property
    def own_scope(self) -> QuantileScope:
        """For another score than the calibrated one, of which the file knows no quantiles.

        Ranked among the caption's own scores, the same share is relaxed.
        """
        is_calibrated = self.scope is QuantileScope.CALIBRATED
        return QuantileScope.RUNNING if is_calibrated else self.scope


def main_methods(calibrated: Calibrated) -> list[Method]:
    """Every method of the main table."""
    exact = SpeculationConfig(method=SpeculationMethod.EXACT, drafting=FIXED)
    lvspec = calibrated.settings
    paper = SpeculationConfig(method=SpeculationMethod.PAPER, anchors=PAPER_ANCHORS)
    paper_pruned = paper.model_copy(update={"drafting": PRUNED})
    paper_whole = paper.model_copy(update={"drafting": FIXED})
    by_attention = PRUNED.model_copy(update={"pruning": PruningPolicy.ATTENTION})
    ngram = DraftingConfig(drafter=Drafter.NGRAM)
    itself = DraftingConfig(drafter=Drafter.SELF, keep_ratio=0.1)
    adaptive = DraftingConfig(adaptive=True)
    chosen = {"drafting": adaptive, "num_speculative_tokens": MOST_K}
    return [
        Method(PLAIN, "our loop without a draft"),
        Method(EXACT, "exact chain", exact, start_k=EXACT_START),
        Method("exact, K of lvspec", "exact chain at lvspec's K", exact, same_k_as=LVSPEC),
        Method(
            SPECVLM_UNIFORM,
            "exact; the draft sees 10 % of the video tokens, evenly spread",
            exact.model_copy(update={"drafting": PRUNED}),
            start_k=EXACT_START,
        ),
        Method(
            SPECVLM_ATTENTION,
            "exact; the draft sees the 10 % that the target attends to most",
            exact.model_copy(update={"drafting": by_attention}),
            start_k=EXACT_START,
        ),
        Method(
            FLY,
            "entropy gate .3, window 6",
            SpeculationConfig(method=SpeculationMethod.FLY, drafting=FIXED),
            start_k=LOOSE_START,
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
            start_k=LOOSE_START,
        ),
        Method(LVSPEC, f"method {calibrated.method}, calibrated", lvspec, start_k=calibrated.k),
        random_relaxation(calibrated),
        Method(
            LVSPEC_ADAPTIVE,
            f"lvspec, K chosen from 0 to {MOST_K} by what rounds cost and bring",
            lvspec.model_copy(update=chosen),
        ),
        Method(
            EXACT_ADAPTIVE,
            f"exact chain, K chosen from 0 to {MOST_K}",
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


def random_relaxation(calibrated: Calibrated) -> Method:
    """The control: as many slots relaxed, by chance."""
    lvspec = calibrated.settings
    anchors = {"score": AnchorScoreKind.RANDOM, "quantile_scope": calibrated.own_scope}
    return Method(
        RANDOM,
        "lvspec at equal lambda with a random score",
        lvspec.model_copy(update={"anchors": lvspec.anchors.model_copy(update=anchors)}),
        start_k=LOOSE_START,
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
        SpeculationConfig(method=SpeculationMethod.PAPER, anchors=anchors, drafting=FIXED),
        start_k=LOOSE_START,
        oracle=True,
    )
