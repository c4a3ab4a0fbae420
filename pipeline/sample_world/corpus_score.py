"""A finished data set against the sample corpus that it was made of: complete, and how right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.sample_world.corpus import read_facts
from pipeline.sample_world.facts import caption_facts, facts_right

NUM_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % bootstrap interval over ``num_samples`` clips."""

    mean: float
    low: float
    high: float
    num_samples: int

    def __str__(self) -> str:
        return f"{self.mean:.1%} [{self.low:.1%}, {self.high:.1%}], n = {self.num_samples}"


@dataclass(frozen=True, slots=True)
class CorpusScore:
    """``facts_right`` is the mean share of a scene's facts that its caption states rightly."""

    num_files: int
    missing: tuple[str, ...]
    """Files without a row."""
    repeated: tuple[str, ...]
    """Files with more than one row."""
    failed_good_files: tuple[str, ...]
    """Files that are not damaged and yet have a failure row."""
    facts_right: Interval

    @property
    def is_complete(self) -> bool:
        """Whether every file has exactly one row, and every good file a caption."""
        return not (self.missing or self.repeated or self.failed_good_files)


def score_corpus(dataset: Path, corpus: Path) -> CorpusScore:
    """Score a data set folder (captions/, failures/) whose clips are whole files of the corpus."""
    captions = _columns(dataset / "captions", "source_uri", "caption")
    failures = _columns(dataset / "failures", "source_uri")
    truth = read_facts(corpus)
    files = sorted(path.name for path in (corpus / "videos").iterdir())
    captioned = [(_name(uri), text) for uri, text in captions]
    failed = [_name(uri) for (uri,) in failures]
    num_rows = Counter([name for name, _ in captioned] + failed)
    return CorpusScore(
        num_files=len(files),
        missing=tuple(name for name in files if not num_rows[name]),
        repeated=tuple(name for name in files if num_rows[name] > 1),
        failed_good_files=tuple(name for name in failed if name in truth),
        facts_right=bootstrap_mean(
            [facts_right(caption_facts(text), truth[name]) for name, text in captioned]
        ),
    )


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean and 95 % percentile bootstrap interval. Raises ValueError if there are no values."""
    if not values:
        raise ValueError("a mean needs at least one value")
    rng = np.random.default_rng(seed)
    samples = np.asarray(values, dtype=np.float64)
    means = rng.choice(samples, size=(NUM_RESAMPLES, len(samples))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(samples.mean()), float(low), float(high), len(samples))


def _columns(folder: Path, *names: str) -> list[tuple[str, ...]]:
    table = pq.read_table(folder, columns=list(names)) if folder.exists() else None
    return list(zip(*(table.column(name).to_pylist() for name in names))) if table else []


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]
