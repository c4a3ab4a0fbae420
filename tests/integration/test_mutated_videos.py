"""Damage of a thousand kinds by chance never gets past the decode stage: each file is one row.

The whole job with real codecs, real decode processes and their limits; the model is scripted.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.benchmark.nightly_mutations import LIMIT_S, measure
from pipeline.sample_world.mutations import MUTATIONS, mutants, write_sources

ROOT = Path(__file__).parents[2]
NUM_VIDEOS = 1008
BUSY_MACHINE_S = 40.0
"""What a decode process may take to start where others work, beside the limits."""


def test_a_thousand_mutated_videos(tmp_path: Path, capsys) -> None:
    """No crash of the job, no wait beyond the limits, one row for each video, a whole data set."""
    result = measure(NUM_VIDEOS, tmp_path, [ROOT / "tests" / "data" / "board_theora.ogv"])
    with capsys.disabled():
        print(f"\n{result.num_captions} captions, {result.failures_by_code}")
    assert result.problems == ()
    assert result.num_rows == NUM_VIDEOS
    assert sum(result.videos_by_mutation.values()) == NUM_VIDEOS
    assert set(result.videos_by_mutation) == set(MUTATIONS)
    assert result.longest_wait_s < 2 * LIMIT_S + BUSY_MACHINE_S
    # most damage is seen, some can't be: a corpus on which all or none failed would prove nothing
    assert NUM_VIDEOS / 10 < result.num_captions < NUM_VIDEOS
    assert len(result.failures_by_code) >= 5
    assert all(result.failed_by_mutation.get(name) for name in MUTATIONS)


def test_mutants_are_repeatable_and_differ(tmp_path: Path) -> None:
    """Else a failure that was seen once could not be looked at."""
    sources = write_sources(tmp_path)
    first, again = (mutants(sources, 200) for _ in range(2))
    assert first == again
    digests = {hashlib.sha256(mutant.data).digest() for mutant in first}
    assert len(digests) >= 198, "an empty file may come twice"
    originals = {hashlib.sha256(path.read_bytes()).digest() for path in sources}
    assert len(digests & originals) <= 4, "a stretch of no length changes nothing"
