"""Write a folder of synthetic videos, some damaged, whose content is known exactly.

python -m jobs.make_sample_corpus --output /tmp/corpus --num-videos 120 --num-damaged 6
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pipeline.sample_world.corpus import CorpusPlan, write_corpus
from pipeline.sample_world.damage import DAMAGES
from pipeline.sample_world.encoding import CODECS


def main() -> None:
    """Write the corpus that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--num-videos", type=int, default=120, help="good files")
    parser.add_argument(
        "--num-damaged", type=int, default=6, help=f"damaged files, in turn {', '.join(DAMAGES)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other videos")
    parser.add_argument(
        "--codecs", nargs="+", choices=list(CODECS), default=list(CODECS), help="they take turns"
    )
    args = parser.parse_args()
    plan = CorpusPlan(args.num_videos, args.num_damaged, args.seed, tuple(args.codecs))
    started_s = time.monotonic()
    num_files = args.num_videos + args.num_damaged
    for done, name in enumerate(write_corpus(args.output, plan), start=1):
        if done % 20 == 0 or done == num_files:
            print(f"{done}/{num_files} {name} {time.monotonic() - started_s:.1f} s", flush=True)
    print(f"wrote {num_files} files and facts.jsonl to {args.output}")


if __name__ == "__main__":
    main()
