"""Guards how a clip becomes inputs: true times, true sizes, and errors that are the clip's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.config import PromptConfig
from pipeline.models.base import ClipInputError
from tests.tiny_models import tiny_clip


def prepare(pair, clip):
    return pair.target.prepare(clip, PromptConfig())


def test_visual_tokens_and_positions(pair):
    inputs = prepare(pair, tiny_clip(num_frames=6))
    if pair.family == "qwen2_5_vl":  # 56 px = 4 x 4 patches, merged 2 x 2 and by pairs of frames
        assert inputs.num_visual_tokens == 3 * 2 * 2
        assert inputs.position_ids.shape == (3, inputs.num_tokens)
        assert inputs.next_position == int(inputs.position_ids[0, -1]) + 1
        assert inputs.next_position != inputs.num_tokens
    else:  # 16 patches a frame pooled to 4, and one newline
        assert inputs.num_visual_tokens == 6 * 4 + 1
        assert inputs.position_ids.tolist() == list(range(inputs.num_tokens))
        assert inputs.next_position == inputs.num_tokens


@pytest.mark.parametrize("interval_s", [0.25, 0.5, 2.0])
def test_qwen_counts_the_temporal_axis_in_real_time(pair, interval_s):
    if pair.family != "qwen2_5_vl":
        inputs = prepare(pair, tiny_clip(interval_s=interval_s))
        assert torch.equal(inputs.position_ids, prepare(pair, tiny_clip()).position_ids)
        return
    inputs = prepare(pair, tiny_clip(num_frames=8, interval_s=interval_s))
    times = inputs.position_ids[0, inputs.visual_mask].unique()
    tokens_per_second = 2
    assert (times - times[0]).tolist() == [
        int(pair_of_frames * 2 * interval_s * tokens_per_second) for pair_of_frames in range(4)
    ]


def test_draft_and_target_see_the_same_prompt(pair):
    clip = tiny_clip()
    target = pair.target.prepare(clip, PromptConfig())
    draft = pair.draft.prepare(clip, PromptConfig())
    assert torch.equal(target.token_ids, draft.token_ids)


def test_frames_of_a_wrong_size_are_the_clips_fault(pair):
    clip = tiny_clip()
    cropped = replace(clip, frames=clip.frames[:, :50])
    with pytest.raises(ClipInputError, match=r"50x56 px.*video\.frame_size"):
        prepare(pair, cropped)


@pytest.mark.parametrize("times", [[0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 0.5, 2.0], [0.0, 1.0]])
def test_timestamps_that_do_not_increase_are_the_clips_fault(pair, times):
    with pytest.raises(ClipInputError, match="increasing timestamps"):
        prepare(pair, replace(tiny_clip(), timestamps_s=np.array(times)))


def test_qwen_refuses_a_batch_without_token_types(pair):
    """Without them transformers numbers the video like text, and says nothing."""
    model = pair.target
    batch = {"input_ids": torch.zeros(1, 4, dtype=torch.long), "pixel_values_videos": None}
    if pair.family == "qwen2_5_vl":
        with pytest.raises(RuntimeError, match="mm_token_type_ids"):
            model.inputs_from(batch)
    else:  # plain positions need no types
        assert model.inputs_from(batch).position_ids.tolist() == [0, 1, 2, 3]


def test_decoded_text_has_no_special_tokens(pair):
    ids = pair.target.tokenizer.encode("a red car")
    assert pair.target.decode_text([*ids, *pair.target.eos_token_ids]) == "a red car"
