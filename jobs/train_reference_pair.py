"""Train the reference pair from zero, on two cores, in under three hours.

    python -m jobs.train_reference_pair --work-dir /tmp/pair --output assets/reference_pair

Two single-threaded processes run side by side: one trains the vision tower and then the target,
the other makes the frame pool and then trains the draft. Kill the job at any moment and start it
again with the same flags: it goes on from the last saved step.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import multiprocessing.connection
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.reference_pair.architecture import build_tokenizer, save_pair_member
from pipeline.reference_pair.curriculum import (
    FIRST_CLIPS,
    POOL_CLIPS,
    STAGES,
    Trainer,
    load_stage,
    run_stage,
    scaled,
    weights_path,
)
from pipeline.reference_pair.frames import SHARD_CLIPS, FramePool, is_written, write_pool

LINES = {
    "target": ("look", "target-list", "target-brief", "target-base", "target", "target-polish"),
    "draft": ("draft-list", "draft-brief", "draft", "draft-motion", "draft-polish"),
}


def main() -> None:
    """Run both lines of stages, and write the finished pair."""
    args = _parse()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run_line, args=(line, args)) for line in LINES]
    for process in processes:
        process.start()
    running = list(processes)
    while running:
        multiprocessing.connection.wait([process.sentinel for process in running])
        if any(process.exitcode for process in processes):
            # The other line may be waiting for what will now never come.
            for process in running:
                process.terminate()
            sys.exit("a line of the training failed; start the job again to go on from its save")
        running = [process for process in running if process.is_alive()]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, required=True, help="frames and checkpoints")
    parser.add_argument("--output", type=Path, required=True, help="where target/ and draft/ go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps-scale", type=float, default=1.0, help="shorten all stages, for a smoke run"
    )
    parser.add_argument("--pool-clips", type=int, default=POOL_CLIPS, help="multiple of 512")
    return parser.parse_args()


def _run_line(line: str, args: argparse.Namespace) -> None:
    """Run one line's stages in this process, from wherever an earlier run was stopped."""
    torch.set_num_threads(1)
    frames = args.work_dir / "frames"
    if line == "draft":
        for split, num_clips in (
            ("train", min(FIRST_CLIPS, args.pool_clips)),
            ("validation", SHARD_CLIPS),
            ("train", args.pool_clips),
        ):
            write_pool(frames, split, num_clips, report=_report)
    tokenizer = build_tokenizer()
    for name in LINES[line]:
        stage = scaled(STAGES[name], args.steps_scale)
        if weights_path(args.work_dir, name).exists():
            continue
        num_clips = min(stage.num_clips, args.pool_clips)
        _wait_for(functools.partial(is_written, frames, "train", num_clips))
        if stage.parent is not None:
            _wait_for(weights_path(args.work_dir, stage.parent).exists)
        pool = FramePool(frames, "train", num_clips)
        run_stage(Trainer(stage, pool, tokenizer, args.work_dir, seed=args.seed), report=_report)
    last = STAGES[LINES[line][-1]]
    save_pair_member(load_stage(args.work_dir, last), tokenizer, args.output / line)
    _report(f"{line}: written to {args.output / line}")


def _wait_for(condition: Callable[[], bool]) -> None:
    """Wait for the other line to have done its part."""
    while not condition():
        time.sleep(1)


def _report(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main()
