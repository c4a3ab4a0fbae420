"""The parts of the gang benchmark that need no cluster: memory of loading, and overhead."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from pipeline.benchmark.bench import Bench
from pipeline.benchmark.clips import BenchmarkClip
from pipeline.benchmark.gang_checkpoint import LARGE, TextShape, write_checkpoint
from pipeline.benchmark.gang_memory import measure_shards, measure_whole
from pipeline.benchmark.gang_overhead import Comparison, RanksHere
from pipeline.benchmark.gang_results import FROM_PRETRAINED, MemoryRun, Overhead
from pipeline.benchmark.interleaved import Print
from pipeline.config import RunConfig
from pipeline.models.errors import PairError
from pipeline.models.loading import load_pair
from pipeline.settings import load_run_config

BATCHES = (1, 4)
_METHODS = {"exact": ("--speculation.num-speculative-tokens", "4"), "safe": ()}
_NAMES = {"exact": "exact, K 4", "safe": "lvspec"}
_MEMORY_RANKS = (2, 4)
_OVERHEAD_RANKS = 2
_PROCESS_BYTES = 1 << 30
"""Of a rank before it loads anything, and what its loading may take beside its part."""
_PATIENCE_S = 600.0


def pair_config(method: str, batch: int, num_ranks: int = 1) -> RunConfig:
    """The reference pair in float32, by method ``exact`` at K 4 or ``safe`` as calibrated."""
    return load_run_config(
        ["--recipe", "reference", "--input", "unused", "--output", "unused",
         "--dtype", "float32", "--models.draft.dtype", "float32",
         "--speculation.method", method, *_METHODS[method],
         "--generation.max-num-seqs", str(batch),
         "--models.tensor-parallel-size", str(num_ranks)]
    )  # fmt: skip


def held_out_clips(
    seed: int, num_clips: int, num_warm_up: int, show: Print
) -> tuple[list[BenchmarkClip], list[BenchmarkClip]]:
    """Clips of the sample corpus of this seed, and others to warm up on."""
    return Bench(pair_config("exact", 1), seed, None, (), show).clips(num_clips, num_warm_up)


def memory_runs(
    template: Path, scratch: Path | None, show: Print, shape: TextShape = LARGE
) -> tuple[int, list[MemoryRun]]:
    """Bytes of a checkpoint, and what ranks and transformers took to load it.

    It is written below ``scratch`` (None: the temporary folder), like ``template``, and removed.
    Raises MemoryError if the machine has no room for it within some minutes.
    """
    runs = []
    with tempfile.TemporaryDirectory(prefix="lvspec-bench-gang-", dir=scratch) as name:
        folder = Path(name)
        show("memory: writing a checkpoint")
        written = write_checkpoint(folder, template, shape)
        for num_ranks in _MEMORY_RANKS:
            _await_memory(written.num_bytes + num_ranks * (written.largest + _PROCESS_BYTES))
            show(f"memory: {num_ranks} ranks load {written.num_bytes / 1e9:.1f} GB")
            runs.append(MemoryRun(num_ranks, tuple(measure_shards(folder, num_ranks))))
        _await_memory(written.num_bytes + _PROCESS_BYTES)
        show("memory: from_pretrained loads it")
        runs.append(MemoryRun(FROM_PRETRAINED, (measure_whole(folder),)))
    return written.num_bytes, runs


def overhead_runs(
    clips: Sequence[BenchmarkClip], warm_up: Sequence[BenchmarkClip], show: Print
) -> list[Overhead]:
    """The reference pair in one process against a gang of one rank, and then of several.

    Clips of a gang of several are the first half.
    """
    models = pair_config("exact", 1).models
    target, draft = load_pair(models)
    if draft is None:
        raise PairError("the recipe `reference` names no draft")
    comparisons = [
        Comparison(_NAMES[method], pair_config(method, batch), target, draft, clips, warm_up, show)
        for batch in BATCHES
        for method in _METHODS
    ]
    runs = [comparison.with_one_rank() for comparison in comparisons]
    few = clips[: len(clips) // 2]  # several ranks on few cores are slow, and far from even
    every_clip = [each.clip for each in (*clips, *warm_up)]
    ranks = RanksHere(pair_config("exact", 1), _OVERHEAD_RANKS, every_clip)
    try:
        runs += [replace(comparison, clips=few).with_several(ranks) for comparison in comparisons]
    finally:
        ranks.close()
    return runs


def _await_memory(num_bytes: int) -> None:
    """Wait until so much is free: others may need the machine. Raises MemoryError in the end."""
    deadline = time.monotonic() + _PATIENCE_S
    while (free := psutil.virtual_memory().available) < num_bytes:
        if time.monotonic() > deadline:
            raise MemoryError(f"{num_bytes / 1e9:.1f} GB are needed, {free / 1e9:.1f} are free")
        time.sleep(2.0)
