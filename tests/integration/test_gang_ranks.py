"""Guards that a target on several ranks is the target: logits, taps, roll back, video and captions.

Real ranks (DeepSpeed over shared memory) as processes, both families, TP 2, and TP 4 with as many
key/value heads.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import RunConfig, SpeculationConfig
from pipeline.decoding.session import Taps
from pipeline.gang.member import LeadingRank
from pipeline.models.loading import load_pair
from pipeline.records import CaptionRecord
from pipeline.stages.caption import CaptionStage
from tests.gang_ranks import run_gang
from tests.tiny_models import FAMILIES, tiny_clip, write_tiny_pair

CLIPS = [tiny_clip(num_frames=frames, seed=frames) for frames in (4, 2)]
BLOCKS = [[5], [7, 8, 9, 10], [3], [11, 12, 13, 14, 15, 16]]
"""Fed one after the other; two tokens of the longer ones are rolled back."""
TAPS = Taps(states_layer=1, attention_layer=1)
METHODS = ("exact", "paper")
GANGS = [(family, size) for family in FAMILIES for size in (2, 4)]


def config_of(pair: tuple[Path, Path], size: int) -> RunConfig:
    target, draft = pair
    return RunConfig.model_validate(
        {
            "input": {"uri": "/videos"},
            "output": {"uri": "/captions", "token_sample_share": 1.0},
            "models": {
                "target": {"name": str(target), "dtype": "float32"},
                "draft": {"name": str(draft), "dtype": "float32"},
                "device": "cpu",
                "num_threads": 1,
                "tensor_parallel_size": size,
            },
            "generation": {"max_tokens": 12, "max_num_seqs": 2, "max_num_batched_tokens": 16},
            "cluster": {"gang": {"check_rounds": 3}},
        }
    )


def with_method(config: RunConfig, method: str) -> RunConfig:
    speculation = SpeculationConfig(method=method, num_speculative_tokens=4)
    return config.model_copy(update={"speculation": speculation})


def everything_that_a_session_says(model, config, clip):
    """Prompt, blocks and what is left of them after roll backs, of two rows that take turns."""
    session = model.open_session(2, 1024, TAPS)
    said = []
    for slot in range(2):
        prefill = session.prefill(slot, model.prepare(clip, config.prompt))
        said += [prefill.logits, prefill.visual_states, prefill.visual_attention]
    for block in BLOCKS:
        output = session.forward([0, 1], [block, block[:1]])
        said += [output.logits[0], output.logits[1, :1], output.states[0]]
        said += [output.visual_attention[0]]
        if len(block) > 2:
            session.roll_back(0, 2)
    said.append(torch.tensor([float(session.cached_length(slot)) for slot in range(2)]))
    for slot in range(2):
        session.release(slot)
    return [tensor.numpy().copy() for tensor in said]


def texts(outcomes):
    return {
        outcome.clip_id: (outcome.caption.text, outcome.caption.token_ids)
        for outcome in outcomes
        if isinstance(outcome, CaptionRecord)
    }


def all_that_rank_zero_sees(rank: LeadingRank, config, clips):
    """A session's numbers, and the captions of each method."""
    said = everything_that_a_session_says(rank.target, config, clips[0])
    captions = {}
    for method in METHODS:
        stage = CaptionStage.of_pair(with_method(config, method), rank.target, rank.draft)
        captions[method] = texts(stage(clips))
    return said, captions


@pytest.fixture(scope="module", params=GANGS, ids=[f"{f}-{s}" for f, s in GANGS])
def gang(request, tmp_path_factory):
    """The config of a tiny pair whose target is on some ranks, and what these said."""
    family, size = request.param
    folder = tmp_path_factory.mktemp(f"{family}-{size}")
    config = config_of(write_tiny_pair(family, folder, num_kv_heads=max(size, 2)), size)
    return config, *run_gang(config, CLIPS, all_that_rank_zero_sees)


def test_logits_taps_and_roll_back_are_those_of_the_whole_target(gang):
    config, ours, _ = gang
    whole, _ = load_pair(config.models)
    theirs = everything_that_a_session_says(whole, config, CLIPS[0])
    assert len(ours) == len(theirs)
    for said, expected in zip(ours, theirs):
        np.testing.assert_allclose(said, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_captions_are_those_of_one_process(gang, method):
    """The loose rule is the published one: its anchor scores come from states of the gang."""
    config, _, captions = gang
    expected = texts(CaptionStage.load(with_method(config, method))(CLIPS))
    assert len(expected) == len(CLIPS)
    assert captions[method] == expected
