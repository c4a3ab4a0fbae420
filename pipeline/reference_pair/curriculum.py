"""The recipe: stages of training, each resumable at any step.

Every random choice of a step derives from (seed, stage, step), so that a run that was killed and
resumed goes through the same states as one that was not.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from pipeline.reference_pair.architecture import (
    BASE_SHAPE,
    DRAFT_SHAPE,
    TARGET_SHAPE,
    ModelShape,
    build_model,
)
from pipeline.reference_pair.frames import FramePool
from pipeline.reference_pair.growth import grow
from pipeline.reference_pair.lessons import Lesson, SlotHead, look, write
from pipeline.sample_world.grammar import BRIEF, FULL, Style

POOL_CLIPS = 48 * 512
FIRST_CLIPS = 8 * 512
"""As many clips are enough to start with, while the rest of the pool is being made."""


class Task(StrEnum):
    """What a stage teaches."""

    LOOK = "look"
    LIST = "list"
    BRIEF = "brief"
    FULL = "full"


_STYLES: dict[Task, Style | None] = {Task.LIST: None, Task.BRIEF: BRIEF, Task.FULL: FULL}


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of training with one lesson and one cosine schedule."""

    name: str
    shape: ModelShape
    task: Task
    parent: str | None
    """The stage whose weights this one starts from; a larger shape is grown from them."""
    steps: int
    batch: int
    peak_lr: float
    num_clips: int = POOL_CLIPS
    fact_weight: float = 3.0


STAGES = {
    stage.name: stage
    for stage in (
        Stage("look", BASE_SHAPE, Task.LOOK, None, 1600, 32, 1.5e-3, FIRST_CLIPS),
        Stage("target-list", BASE_SHAPE, Task.LIST, "look", 450, 32, 1e-3),
        Stage("target-brief", BASE_SHAPE, Task.BRIEF, "target-list", 550, 32, 1e-3),
        Stage("target-base", BASE_SHAPE, Task.FULL, "target-brief", 650, 32, 1e-3, fact_weight=6),
        Stage("target", TARGET_SHAPE, Task.FULL, "target-base", 160, 16, 3e-4, fact_weight=6),
        Stage("target-polish", TARGET_SHAPE, Task.FULL, "target", 600, 16, 4e-4, fact_weight=12),
        Stage("draft-list", DRAFT_SHAPE, Task.LIST, "look", 500, 32, 2e-3),
        Stage("draft-brief", DRAFT_SHAPE, Task.BRIEF, "draft-list", 500, 32, 2e-3, fact_weight=8),
        Stage("draft", DRAFT_SHAPE, Task.FULL, "draft-brief", 350, 32, 1e-3, fact_weight=8),
        Stage("draft-motion", DRAFT_SHAPE, Task.LIST, "draft", 300, 32, 1.5e-3),
        Stage(
            "draft-polish", DRAFT_SHAPE, Task.FULL, "draft-motion", 150, 32, 1e-3, fact_weight=16
        ),
    )
}


def scaled(stage: Stage, factor: float) -> Stage:
    """The same stage with `factor` times the steps (at least one)."""
    return replace(stage, steps=max(1, round(stage.steps * factor)))


@dataclass(frozen=True, slots=True)
class StageCost:
    """What a finished stage took."""

    steps: int
    clips: int
    cpu_minutes: float


class Trainer:
    """One stage in progress: model, optimizer and step; the state is saved and restored whole."""

    def __init__(
        self,
        stage: Stage,
        pool: FramePool,
        tokenizer: Qwen2Tokenizer,
        folder: Path,
        *,
        seed: int,
    ) -> None:
        """Start from the parent's weights in `folder`, or where an earlier run was stopped.

        Raises FileNotFoundError if the parent stage has not been finished in `folder`.
        """
        self.stage = stage
        self.step = 0
        self.cpu_s = 0.0
        """CPU time that this stage has taken so far, over all restarts."""
        self._pool = pool
        self._tokenizer = tokenizer
        self._folder = folder
        self._entropy = [seed, zlib.crc32(stage.name.encode())]
        torch.manual_seed(self._entropy[1] + seed)
        self.model = _initial_model(stage, folder)
        self.model.train()
        self._head = SlotHead(stage.shape.hidden) if stage.task is Task.LOOK else None
        self._modules = [self.model, *([self._head] if self._head else [])]
        self._parameters = [p for module in self._modules for p in module.parameters()]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=stage.peak_lr, betas=(0.9, 0.98), weight_decay=0.02, fused=True
        )
        if self._progress_path.exists():
            self._restore()

    @property
    def _progress_path(self) -> Path:
        return self._folder / f"{self.stage.name}.progress.pt"

    def train_step(self) -> Lesson:
        """Take the next step."""
        started_s = time.process_time()
        rng = np.random.default_rng([*self._entropy, self.step])
        chosen = rng.integers(min(self.stage.num_clips, len(self._pool)), size=self.stage.batch)
        clips = [self._pool[int(index)] for index in chosen]
        if self._head is not None:
            lesson = look(self.model, self._head, clips, rng)
        else:
            lesson = write(
                self.model,
                self._tokenizer,
                clips,
                rng,
                style=_STYLES[self.stage.task],
                fact_weight=self.stage.fact_weight,
            )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.stage, self.step)
        self._optimizer.zero_grad(set_to_none=True)
        lesson.loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self.step += 1
        self.cpu_s += time.process_time() - started_s
        return lesson

    def save_progress(self) -> None:
        """Write the whole state, atomically."""
        _save_aside(
            {
                "step": self.step,
                "cpu_s": self.cpu_s,
                "modules": [module.state_dict() for module in self._modules],
                "optimizer": self._optimizer.state_dict(),
            },
            self._progress_path,
        )

    def _restore(self) -> None:
        state = torch.load(self._progress_path)
        for module, weights in zip(self._modules, state["modules"]):
            module.load_state_dict(weights)
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.cpu_s = state["step"], state["cpu_s"]

    def finish(self) -> None:
        """Write the final weights and what they cost, and drop the progress."""
        cost = StageCost(self.step, self.step * self.stage.batch, self.cpu_s / 60)
        cost_path(self._folder, self.stage.name).write_text(json.dumps(asdict(cost)))
        _save_aside(self.model.state_dict(), weights_path(self._folder, self.stage.name))
        self._progress_path.unlink(missing_ok=True)


def learning_rate(stage: Stage, step: int) -> float:
    """Linear warm-up over the first tenth (at most 100 steps), flat to 30 %, then a cosine."""
    warm_up = min(100, max(1, stage.steps // 10))
    done = max(0.0, (step / stage.steps - 0.3) / 0.7)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return stage.peak_lr * min(1.0, (step + 1) / warm_up) * (0.03 + 0.97 * cosine)


def weights_path(folder: Path, stage_name: str) -> Path:
    """Where a finished stage leaves its weights."""
    return folder / f"{stage_name}.weights.pt"


def cost_path(folder: Path, stage_name: str) -> Path:
    """Where a finished stage leaves its `StageCost`, as JSON."""
    return folder / f"{stage_name}.cost.json"


def load_stage(folder: Path, stage: Stage) -> Qwen2_5_VLForConditionalGeneration:
    """The model that a finished stage left; FileNotFoundError if it is not finished."""
    model = build_model(stage.shape)
    model.load_state_dict(torch.load(weights_path(folder, stage.name)))
    return model


def _initial_model(stage: Stage, folder: Path) -> Qwen2_5_VLForConditionalGeneration:
    if stage.parent is None:
        return build_model(stage.shape)
    parent_stage = STAGES[stage.parent]
    parent = load_stage(folder, parent_stage)
    if parent_stage.shape == stage.shape:
        return parent
    if parent_stage.task is Task.LOOK:
        return _with_tower_of(parent, stage.shape)
    return grow(parent, parent_stage.shape, stage.shape)


def _with_tower_of(
    parent: Qwen2_5_VLForConditionalGeneration, shape: ModelShape
) -> Qwen2_5_VLForConditionalGeneration:
    """A new model of `shape` that sees as `parent` does: all of the tower that fits its width."""
    model = build_model(shape)
    tower = model.model.visual.state_dict()
    fitting = {
        name: weight
        for name, weight in parent.model.visual.state_dict().items()
        if weight.shape == tower[name].shape
    }
    model.model.visual.load_state_dict(fitting, strict=False)
    return model


def _save_aside(value: object, path: Path) -> None:
    aside = path.with_suffix(".partial")
    torch.save(value, aside)
    aside.rename(path)


def run_stage(
    trainer: Trainer,
    *,
    report: Callable[[str], None] = print,
    report_every: int = 25,
    save_every_s: float = 90.0,
) -> None:
    """Train to the end of the stage, with a progress line now and then and regular saves."""
    stage = trainer.stage
    started_s = saved_s = time.monotonic()
    started_step = trainer.step
    losses: list[float] = []
    rights: list[float] = []
    while trainer.step < stage.steps:
        lesson = trainer.train_step()
        losses.append(lesson.loss.item())
        rights.append(lesson.right)
        now_s = time.monotonic()
        if trainer.step % report_every == 0 or trainer.step == stage.steps:
            per_s = (trainer.step - started_step) / (now_s - started_s)
            report(
                f"{stage.name}: step {trainer.step}/{stage.steps} loss {np.mean(losses):.3f} "
                f"right {np.mean(rights):.3f} {per_s * stage.batch:.1f} clips/s "
                f"ETA {(stage.steps - trainer.step) / per_s / 60:.1f} min"
            )
            losses, rights = [], []
        if now_s - saved_s > save_every_s:
            trainer.save_progress()
            saved_s = now_s
    trainer.finish()
