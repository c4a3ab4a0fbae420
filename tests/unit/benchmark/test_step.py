"""Guards the step table: every cost is measured at every size, and the table says them all."""

import pytest
import torch

from pipeline.benchmark.clips import BenchmarkClip
from pipeline.benchmark.step import StepCost, StepCosts, StepPlan, markdown, measure_steps
from pipeline.config import ModelConfig, PromptConfig
from pipeline.decoding.request import CaptionRequest
from pipeline.models.loading import load_model
from tests.tiny_models import tiny_clip, write_tiny_pair

PROMPT = PromptConfig(text="what happens ?")
PLAN = StepPlan(num_skipped=1, num_tokens=2, rounds=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folders = write_tiny_pair("qwen2_5_vl", tmp_path_factory.mktemp("pair"))
    return [
        load_model(ModelConfig(name=str(f), dtype="float32"), torch.device("cpu")) for f in folders
    ]


def clips(pair, frames):
    made = [tiny_clip(num_frames=count, seed=n) for n, count in enumerate(frames)]
    return [
        BenchmarkClip(
            CaptionRequest(clip.clip_id, *(model.prepare(clip, PROMPT) for model in pair)),
            clip,
            frozenset(),
        )
        for clip in made
    ]


def test_every_cost_at_every_batch_size(pair):
    measured = measure_steps(*pair, clips(pair, [4, 4]), PROMPT, (1, 2), (2, 5), PLAN)
    assert (measured.dtype, measured.draft_dtype) == ("float32", "float32")
    assert [cost.batch for cost in measured.costs] == [1, 2]
    for cost in measured.costs:
        assert min(cost.step_ms, cost.draft_ms, *cost.verify_ms.values()) > 0
        assert set(cost.verify_ms) == {2, 5}


def test_too_few_clips_and_prompts_of_unequal_length(pair):
    with pytest.raises(ValueError, match="1 clips for a batch of 2"):
        measure_steps(*pair, clips(pair, [4]), PROMPT, (2,), (2,), PLAN)
    with pytest.raises(ValueError, match="unpadded"):
        measure_steps(*pair, clips(pair, [4, 8]), PROMPT, (2,), (2,), PLAN)


def test_the_table():
    cost = StepCost(batch=4, step_ms=8.0, generate_ms=16.0, draft_ms=0.4, verify_ms={5: 12.0})
    lines = markdown([StepCosts("bfloat16", "float32", 1, (cost,))]).splitlines()
    assert lines[0].endswith("| r | v(5) |")
    assert lines[2] == "| bfloat16 | float32 | 4 | 8.00 | 16.00 | 0.50 | 0.40 | 0.050 | 1.50 |"
