"""Do the counters of caption rows add up? Whole record batches at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.dataset.schema import CAPTIONS, Row

_COUNTS = (
    "output_tokens",
    "target_steps",
    "drafted_tokens",
    "accepted_tokens",
    "relaxed_tokens",
    "shifted_tokens",
    "anchor_tokens",
    "correction_tokens",
    "bonus_tokens",
)
COUNTERS = (*_COUNTS, "rejected_by_cause", "accepted_histogram")


def broken_claims(batch: pa.RecordBatch) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Each claim about the counters (docs/architecture.md, schema), and the rows that break it."""
    counts = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in _COUNTS}
    counts = {name: values.astype(np.int64) for name, values in counts.items()}
    accepted, drafted = counts["accepted_tokens"], counts["drafted_tokens"]
    steps = counts["target_steps"]
    causes = batch.column("rejected_by_cause")
    num_rejections, _ = _sums(causes.offsets, causes.items)
    histogram = batch.column("accepted_histogram")
    num_in_histogram, accepted_in_histogram = _sums(histogram.offsets, histogram.values)
    own = counts["correction_tokens"] + counts["bonus_tokens"]
    yield (
        "accepted + correction + bonus tokens are the output tokens",
        accepted + own != counts["output_tokens"],
    )
    yield (
        "relaxed and shifted tokens are among the accepted",
        counts["relaxed_tokens"] + counts["shifted_tokens"] > accepted,
    )
    yield "accepted tokens are among the drafted", accepted > drafted
    yield "anchors are among the drafted", counts["anchor_tokens"] > drafted
    yield "a target step rejects once at most", num_rejections > steps
    yield "the histogram has every target step", num_in_histogram != steps
    yield "the histogram has every accepted token", accepted_in_histogram != accepted


def broken_claim(where: str, claim: str) -> str:
    """How a broken claim is told."""
    return f"{where}: it is not so that {claim}"


def counter_problems(row: Row) -> Iterator[str]:
    """What does not add up in one caption row."""
    schema = pa.schema([CAPTIONS.field(name) for name in COUNTERS])
    batch = pa.RecordBatch.from_pylist([{name: row[name] for name in COUNTERS}], schema=schema)
    for claim, broken in broken_claims(batch):
        if broken[0]:
            yield broken_claim(f"clip {row['clip_id']} of {row['source_uri']}", claim)


def _sums(offsets: pa.Array, values: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Of each list: the sum of its values, and that of its values times their places."""
    bounds = offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    numbers = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    # a list is values[bounds[i]:bounds[i + 1]]; before the first of this batch there may be others
    numbers, bounds = numbers[bounds[0] : bounds[-1]], bounds - bounds[0]
    places = np.arange(len(numbers)) - np.repeat(bounds[:-1], np.diff(bounds))
    return _between(numbers, bounds), _between(numbers * places, bounds)


def _between(numbers: npt.NDArray[Any], bounds: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sums between bounds, as differences of running sums: empty lists are no special case."""
    running = np.concatenate(([0], np.cumsum(numbers)))
    sums: npt.NDArray[Any] = running[bounds[1:]] - running[bounds[:-1]]
    return sums
