"""What a benchmark ran on, in one line."""

from __future__ import annotations

import os
import platform
from collections import Counter
from pathlib import Path

import torch


def hardware() -> str:
    """Processor, number of cores and the GPUs that torch sees."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {_gpus()}"


def _gpus() -> str:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    counts = Counter(names)
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "no GPU"
