"""How many clips a captioner is handed at a time; alike with Ray and without."""

from __future__ import annotations

from pipeline.config import RunConfig


def clips_per_call(config: RunConfig) -> int:
    """Clips of one call: half of those that may wait, while the other half is on its way.

    More than decode together where that is affordable, so that a clip that ends makes room for
    another; never fewer.
    """
    return max(config.generation.max_num_seqs, config.cluster.max_clips_in_flight // 2)


def calls_in_flight(config: RunConfig) -> int:
    """Calls that are under way to one captioner or in it."""
    return max(1, config.cluster.max_clips_in_flight // clips_per_call(config))
