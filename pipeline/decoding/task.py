"""One request on its way through the engine: what was asked, and what has become of it so far."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.decoding.fidelity import LOSSLESS, Rung
from pipeline.decoding.kv_budget import PromptTooLongError
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodedRow
from pipeline.records import Caption, PlainComparison, ShadowComparison


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the ``index``-th request of a stream: its caption, or why it has none.

    ``clip_id`` and ``frames_digest`` are those of the request whose row was decoded: who asked
    compares them with what the ``index``-th request was.
    """

    index: int
    clip_id: str
    frames_digest: str
    result: Caption | PromptTooLongError


@dataclass(slots=True, eq=False)
class Task:
    """A request with the rows that it needs; ``has_shadow`` asks for a second, exact one.

    ``rung`` is what was in force when the row was admitted.
    """

    index: int
    request: CaptionRequest
    has_shadow: bool
    rung: Rung = LOSSLESS
    row: DecodedRow | None = None
    shadow: DecodedRow | None = None

    @property
    def is_done(self) -> bool:
        """Whether all its rows have ended."""
        return self.row is not None and (self.shadow is not None or not self.has_shadow)


def compare_with_plain(row: DecodedRow, plain: DecodedRow) -> PlainComparison:
    """What the plain way gave, and took, for the same request."""
    return PlainComparison(
        equal=plain.token_ids == row.token_ids,
        prefill_s=plain.stats.prefill_s,
        decode_s=plain.stats.decode_s,
        output_tokens=plain.stats.output_tokens,
    )


def compare_with_exact(
    row: DecodedRow, exact: DecodedRow, facts_kept: float | None
) -> ShadowComparison:
    """What loose decoding changed."""
    is_equal = exact.token_ids == row.token_ids
    return ShadowComparison(is_equal, exact.stats.output_tokens, facts_kept)
