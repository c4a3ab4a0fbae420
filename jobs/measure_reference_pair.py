"""Measure the reference pair on held-out clips, and write the figures.

    python -m jobs.measure_reference_pair --pair assets/reference_pair --work-dir /tmp/pair

Decisions about the recipe are made on `--split validation`; the model card reports `test`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from pipeline.reference_pair.frames import FIRST_SEED, SHARD_CLIPS, FramePool, write_pool
from pipeline.reference_pair.properties import measure


def main() -> None:
    """Measure, print the table as JSON, and write it if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", type=Path, required=True, help="folder with target/ and draft/")
    parser.add_argument("--work-dir", type=Path, required=True, help="keeps the held-out frames")
    parser.add_argument("--split", choices=[s for s in FIRST_SEED if s != "train"], default="test")
    parser.add_argument("--num-clips", type=int, default=SHARD_CLIPS, help=f"at most {SHARD_CLIPS}")
    parser.add_argument("--output", type=Path, help="write the figures to this file as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    frames = args.work_dir / "frames"
    write_pool(frames, args.split, SHARD_CLIPS)
    pool = FramePool(frames, args.split, SHARD_CLIPS)
    properties = measure(args.pair, pool, args.split, min(args.num_clips, SHARD_CLIPS))
    text = json.dumps(dataclasses.asdict(properties), indent=2)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
