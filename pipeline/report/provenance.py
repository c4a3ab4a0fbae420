"""What a report was made on and from, in one line each."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from pathlib import Path


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
    # Imported where it is used: who measures a process without torch must not bring it in.
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    counts = Counter(names)
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "no GPU"


def commit() -> str:
    """The short id of the code's commit; "unknown" outside a git checkout."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    folder = Path(__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def shown_path(path: str) -> str:
    """A path as reports tell it: relative where it lies in the project, else as it is."""
    root = Path(__file__).parents[2]
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path
