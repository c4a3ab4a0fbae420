"""Raw benchmark results made by hand, with figures that can be reckoned in the head."""

from __future__ import annotations

from dataclasses import replace

from pipeline.benchmark.methods import EXACT, LVSPEC, PLAIN
from pipeline.benchmark.runs import ClipRun, MethodRuns, PartRuns, Setting
from pipeline.sample_world.facts import caption_facts

RED = "On a dark plain ground there is one object. A small red circle moves left."
BLUE = "On a dark plain ground there is one object. A small blue circle moves left."
SETTING = Setting(
    commit="abc",
    date="2026-11-23",
    hardware="a machine",
    command="python x.py",
    corpus_seed=1,
    dtype="float32",
    draft_dtype="float32",
    num_threads=1,
    calibration=None,
)


def clip_run(clip: int, text: str = RED, tokens: int = 20, decode_s: float = 2.0) -> ClipRun:
    """A run with a prefill of 1 s, and 1 s of book-keeping between rows."""
    return ClipRun(
        clip=clip,
        text=text,
        output_tokens=tokens,
        wall_s=decode_s + 2.0,
        prefill_s=1.0,
        decode_s=decode_s,
    )


def drafted_run(clip: int, text: str = RED, tokens: int = 20, decode_s: float = 1.0) -> ClipRun:
    """5 target steps of 4 drafted tokens each; 14 kept, 2 of them loosely."""
    return replace(
        clip_run(clip, text, tokens, decode_s),
        draft_s=0.3,
        verify_s=0.5,
        scoring_s=0.1,
        target_steps=5,
        drafted_tokens=20,
        accepted_tokens=14,
        loose_tokens=2,
        accepted_histogram=(0, 1, 1, 1, 2),
    )


def part_runs(part: str = "main", batch: int = 1, loose_decode_s: float = 1.0) -> PartRuns:
    """Plain decoding and an exact method on four clips; a loose one on two, of which one errs."""
    return PartRuns(
        part=part,
        batch=batch,
        setting=SETTING,
        truths=(caption_facts(RED),) * 4,
        methods=(
            MethodRuns(PLAIN, None, tuple(clip_run(n) for n in range(4))),
            MethodRuns(EXACT, 4, tuple(drafted_run(n) for n in range(4))),
            MethodRuns(
                LVSPEC,
                4,
                (
                    drafted_run(0, decode_s=loose_decode_s),
                    drafted_run(2, BLUE, tokens=10, decode_s=loose_decode_s),
                ),
            ),
            MethodRuns("impossible", None, (), "ValueError: no"),
        ),
    )
