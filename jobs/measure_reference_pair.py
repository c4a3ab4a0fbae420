r"""Measure the reference pair on held-out clips, and write the figures.

    python -m jobs.measure_reference_pair --pair assets/reference_pair --work-dir /tmp/pair \
        --write-card

Decisions about the recipe are made on `--split validation`; the model card reports `test`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from pipeline.reference_pair.architecture import DESCRIBE_PROMPTS, NUM_FRAMES
from pipeline.reference_pair.card import model_card, read_costs
from pipeline.reference_pair.curriculum import POOL_CLIPS
from pipeline.reference_pair.frames import FIRST_SEED, SHARD_CLIPS, FramePool, write_pool
from pipeline.reference_pair.properties import load_member, measure


def main() -> None:
    """Measure, print the table as JSON, and write it if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", type=Path, required=True, help="folder with target/ and draft/")
    parser.add_argument("--work-dir", type=Path, required=True, help="keeps the held-out frames")
    parser.add_argument("--split", choices=[s for s in FIRST_SEED if s != "train"], default="test")
    parser.add_argument("--num-clips", type=int, default=SHARD_CLIPS, help=f"at most {SHARD_CLIPS}")
    parser.add_argument(
        "--write-card",
        action="store_true",
        help="write the pair's README.md; --work-dir must be the one that it was trained in",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="that it was trained with, for the card"
    )
    parser.add_argument(
        "--remark", default="", help="for the card: where the training departed from the recipe"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    frames = args.work_dir / "frames"
    write_pool(frames, args.split, SHARD_CLIPS)
    pool = FramePool(frames, args.split, SHARD_CLIPS)
    properties = measure(args.pair, pool, args.split, min(args.num_clips, SHARD_CLIPS))
    print(json.dumps(dataclasses.asdict(properties), indent=2))
    if args.write_card:
        parameters = {
            name: load_member(args.pair / name)[0].num_parameters() for name in ("target", "draft")
        }
        card = model_card(
            properties,
            read_costs(args.work_dir),
            parameters,
            prompts=DESCRIBE_PROMPTS,
            num_frames=NUM_FRAMES,
            train_clips=POOL_CLIPS,
            seed=args.seed,
            remark=args.remark,
        )
        (args.pair / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
