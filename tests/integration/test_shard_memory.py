"""Guards the memory of loading a rank's part: not the whole checkpoint, and no part of it twice."""

from pathlib import Path

import pytest

from pipeline.benchmark.gang_checkpoint import TextShape, shard_bytes, write_checkpoint
from pipeline.benchmark.gang_memory import measure_shards

TEMPLATE = Path(__file__).parents[2] / "assets" / "reference_pair" / "target"
SHAPE = TextShape(
    hidden_size=2048,
    intermediate_size=5504,
    num_layers=6,
    num_heads=16,
    num_kv_heads=4,
    vocab_size=8000,
)
ALLOWANCE_BYTES = 128 << 20
"""Twice what was seen beside part and largest tensor; a part that is held twice takes 270 MB."""


@pytest.mark.slow
def test_a_rank_takes_the_memory_of_its_part(tmp_path):
    written = write_checkpoint(tmp_path / "model", TEMPLATE, SHAPE)
    assert 500e6 < written.num_bytes < 650e6
    part = shard_bytes(tmp_path / "model", 2)
    assert part + written.largest + ALLOWANCE_BYTES < written.num_bytes, "would prove nothing"
    for use in measure_shards(tmp_path / "model", 2):
        assert use.held == part
        assert use.is_within(ALLOWANCE_BYTES), use
        # The kernel's peak is no less than what is there in the end, which is the part.
        assert use.growth > use.after.total - use.before.total - (32 << 20) > part / 2
