"""The memory that a rank has (light: a driver asks before it imports torch)."""

from __future__ import annotations

import os

from pipeline.config import RunConfig

GIB = 1 << 30


def uses_gpu(config: RunConfig) -> bool:
    """Whether captioners run on GPUs; ``auto`` does where they are given any."""
    device = config.models.device
    return device.startswith("cuda") or (device == "auto" and config.cluster.captioner_gpus > 0)


def memory_bytes(config: RunConfig) -> int:
    """Of a rank's GPU, or of this host; a captioner of a part of a GPU shares it with others."""
    if not uses_gpu(config):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    share = min(1.0, config.cluster.captioner_gpus or 1.0)
    return int(config.cluster.gpu_memory_gib * GIB * share)
