"""How alike two captions are beyond their facts: chrF, if sacrebleu (extra ``bench``) is there."""

from __future__ import annotations

from collections.abc import Callable

Likeness = Callable[[str, str], float]


def chrf() -> Likeness | None:
    """(caption, reference) -> chrF, 0 to 100; None without sacrebleu."""
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError:
        return None
    metric = CHRF()

    def score(caption: str, reference: str) -> float:
        return float(metric.sentence_score(caption, [reference]).score)

    return score
