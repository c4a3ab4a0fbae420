"""A finished data set against the sample corpus that it was made of: complete, and how right."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.sample_world.corpus import read_facts
from pipeline.sample_world.facts import caption_facts, facts_right
from pipeline.statistics import Estimate, bootstrap_mean


@dataclass(frozen=True, slots=True)
class CorpusScore:
    """``facts_right`` is the mean share of a scene's facts that its caption states rightly.

    It is over the captions of good files.
    """

    num_files: int
    missing: tuple[str, ...]
    """Files without a row."""
    repeated: tuple[str, ...]
    """Files with more than one row."""
    failed_good_files: tuple[str, ...]
    """Files that are not damaged and yet have a failure row."""
    captioned_damaged_files: tuple[str, ...]
    """Files that are damaged (or not of the corpus at all) and yet have a caption."""
    facts_right: Estimate

    @property
    def is_complete(self) -> bool:
        """Whether every file has exactly one row: good ones a caption, damaged ones a failure."""
        return not (
            self.missing or self.repeated or self.failed_good_files or self.captioned_damaged_files
        )


def score_corpus(dataset: Path, corpus: Path) -> CorpusScore:
    """Score a data set folder (captions/, failures/) whose clips are whole files of the corpus.

    Raises ValueError if no good file has a caption.
    """
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
        captioned_damaged_files=tuple(name for name, _ in captioned if name not in truth),
        facts_right=bootstrap_mean(
            [
                facts_right(caption_facts(text), truth[name])
                for name, text in captioned
                if name in truth
            ]
        ),
    )


def _columns(folder: Path, *names: str) -> list[tuple[str, ...]]:
    table = pq.read_table(folder, columns=list(names)) if folder.exists() else None
    return list(zip(*(table.column(name).to_pylist() for name in names))) if table else []


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]
