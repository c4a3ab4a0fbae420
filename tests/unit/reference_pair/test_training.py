"""Training is a function of (seed, stage, step): killed and resumed, it goes the same way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.reference_pair import frames
from pipeline.reference_pair.architecture import END_ID, PAD_ID, ModelShape
from pipeline.reference_pair.curriculum import (
    STAGES,
    Stage,
    Task,
    Trainer,
    learning_rate,
    run_stage,
    scaled,
    weights_path,
)
from pipeline.reference_pair.frames import FramePool, clip_seed, is_written, write_pool
from pipeline.reference_pair.lessons import encode_captions, write_list
from pipeline.sample_world.facts import VISUAL_WORDS
from pipeline.sample_world.grammar import WrittenCaption
from pipeline.sample_world.scene import sample_scene

TINY = ModelShape(hidden=32, layers=1, mlp=32, heads=1, kv_heads=1)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> FramePool:
    patch = pytest.MonkeyPatch()
    patch.setattr(frames, "SHARD_CLIPS", 4)
    folder = tmp_path_factory.mktemp("frames")
    write_pool(folder, "train", 8, report=lambda _: None)
    yield FramePool(folder, "train", 8)
    patch.undo()


def _stage(task: Task) -> Stage:
    return Stage("toy", TINY, task, None, steps=3, batch=3, peak_lr=1e-3, num_clips=8)


def _weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("task", list(Task))
def test_a_resumed_stage_ends_in_the_same_state(task: Task, pool, tokenizer, tmp_path: Path):
    def trainer(folder: Path) -> Trainer:
        folder.mkdir(exist_ok=True)
        return Trainer(_stage(task), pool, tokenizer, folder, seed=0)

    whole = trainer(tmp_path / "whole")
    run_stage(whole, report=lambda _: None)
    killed = trainer(tmp_path / "killed")
    killed.train_step()
    killed.save_progress()
    killed.train_step()  # done, but not saved: lost with the process
    resumed = trainer(tmp_path / "killed")
    assert resumed.step == 1
    run_stage(resumed, report=lambda _: None)
    assert torch.equal(_weights(whole), _weights(resumed))
    assert weights_path(tmp_path / "killed", "toy").exists()
    assert not list((tmp_path / "killed").glob("*.progress.pt"))


def test_another_seed_goes_another_way(pool, tokenizer, tmp_path: Path):
    first, second = (
        Trainer(_stage(Task.LIST), pool, tokenizer, tmp_path, seed=seed) for seed in (0, 1)
    )
    assert first.train_step().loss.item() != second.train_step().loss.item()


def test_a_stage_waits_for_its_parent(pool, tokenizer, tmp_path: Path):
    orphan = replace(_stage(Task.LIST), parent="look")
    with pytest.raises(FileNotFoundError):
        Trainer(orphan, pool, tokenizer, tmp_path, seed=0)


def test_the_recipe_is_well_formed():
    for stage in STAGES.values():
        assert stage.parent is None or stage.parent in STAGES
        assert scaled(stage, 1e-9).steps == 1
        rates = [learning_rate(stage, step) for step in range(stage.steps)]
        assert max(rates) == pytest.approx(stage.peak_lr)
        assert min(rates[0], rates[-1]) > 0
        assert rates[-1] < 0.1 * stage.peak_lr


def test_the_pool_is_what_the_clips_are(pool):
    assert len(pool) == 8
    clip = pool[5]
    assert clip.scene == sample_scene(clip_seed("train", 5))
    assert clip.frames.shape == (8, 60, 60, 3)
    assert 1.6 <= clip.duration_s <= 4.8


def test_delivery_is_deterministic(tmp_path: Path):
    first, second = (frames.deliver("validation", 3, tmp_path) for _ in range(2))
    assert np.array_equal(first.frames, second.frames)
    assert first.duration_s == second.duration_s
    assert not list(tmp_path.iterdir())


def test_an_unfinished_shard_does_not_count(tmp_path: Path):
    np.save(tmp_path / "train-000.frames.npy", np.zeros(1))
    assert not is_written(tmp_path, "train", frames.SHARD_CLIPS)
    with pytest.raises(FileNotFoundError):
        FramePool(tmp_path, "train", frames.SHARD_CLIPS)


def test_splits_never_share_a_scene():
    starts = sorted(frames.FIRST_SEED.values())
    assert min(np.diff(starts)) >= 1_000_000


def test_fact_tokens_are_those_of_the_visual_words(tokenizer):
    text = "It moves right, right away."
    tokens, is_fact = encode_captions(
        tokenizer, [WrittenCaption(text, ((9, 14),)), WrittenCaption("No.", ())]
    )
    assert tokenizer.decode(tokens[0][is_fact[0]]) == " right"
    assert not is_fact[1].any()
    assert tokens[1].tolist().count(END_ID) == 1
    assert tokens[1, -1] == PAD_ID


def test_the_terse_list_is_all_facts():
    listed = write_list(sample_scene(4))
    words = [listed.text[start:end] for start, end in listed.spans]
    assert " ".join(words) == listed.text.strip()
    assert set(words) <= VISUAL_WORDS
