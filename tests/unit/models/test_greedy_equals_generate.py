"""Guards the adapters and the session: our greedy output is transformers' own, token by token.

The reference goes its own way: the processor called as transformers documents it, and ``generate``,
which computes positions, masks and caches by itself.
"""

from dataclasses import replace

import pytest
import torch

from pipeline.config import PromptConfig
from pipeline.decoding.row import StopRule
from pipeline.decoding.session import NO_TAPS
from pipeline.records import FinishReason
from tests.decoding import decode_plainly
from tests.tiny_models import tiny_clip

MAX_TOKENS = 24
NO_EOS = StopRule(frozenset(), MAX_TOKENS)
CASES = [
    (tiny_clip(num_frames=4, seed=1), PromptConfig()),
    (tiny_clip(num_frames=9, seed=2, interval_s=1.5), PromptConfig(text="what happens ?")),
    (tiny_clip(num_frames=2, seed=3), PromptConfig(text="describe the dog", system="helpful")),
    (tiny_clip(num_frames=1, seed=4), PromptConfig(text="the car")),
]


def reference(video_lm, clip, prompt, eos_token_id=None):
    processor, model = video_lm.processor, video_lm.model
    question = [{"type": "video"}, {"type": "text", "text": prompt.text}]
    messages = [{"role": "user", "content": question}]
    if prompt.system:
        system = [{"type": "text", "text": prompt.system}]
        messages.insert(0, {"role": "system", "content": system})
    times = clip.timestamps_s
    fps = 1 / (times[1] - times[0]) if len(times) > 1 else 1.0
    frames = list(range(len(times)))
    batch = processor(
        text=[processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)],
        videos=[clip.frames],
        video_metadata=[{"total_num_frames": len(times), "fps": fps, "frames_indices": frames}],
        do_resize=False,
        return_tensors="pt",
    )
    padding = range(len(processor.tokenizer), model.config.text_config.vocab_size)
    output = model.generate(
        **batch,
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        eos_token_id=eos_token_id,
        suppress_tokens=list(padding),
    )
    return tuple(output[0, batch["input_ids"].shape[1] :].tolist())


def decode(video_lm, inputs, stop=NO_EOS):
    session = video_lm.open_session(num_slots=len(inputs), max_length=160, taps=NO_TAPS)
    return decode_plainly(session, inputs, stop)


@pytest.fixture(scope="module")
def references(pair):
    return [reference(pair.target, clip, prompt) for clip, prompt in CASES]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_one_video_decodes_as_generate_does(pair, references, case):
    inputs = pair.target.prepare(*CASES[case])
    (row,) = decode(pair.target, [inputs])
    assert row.token_ids == references[case]
    assert row.finish_reason is FinishReason.LENGTH


def test_outputs_depend_on_the_clip_and_vary(references):
    """Else the equality above would be a comparison of constants."""
    assert len(set(references)) == len(references)
    assert all(len(set(tokens)) > 3 for tokens in references)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 2, 1)])
def test_a_batch_of_unequal_videos_decodes_as_generate_does_one_by_one(pair, references, order):
    rows = decode(pair.target, [pair.target.prepare(*CASES[i]) for i in order])
    assert [row.token_ids for row in rows] == [references[i] for i in order]


def test_rows_that_end_early_leave_the_others_alone(pair, references):
    eos = references[1][5]
    stop = StopRule(frozenset([eos]), MAX_TOKENS)
    rows = decode(pair.target, [pair.target.prepare(*case) for case in CASES], stop)
    for row, case in zip(rows, CASES):
        assert row.token_ids == reference(pair.target, *case, eos_token_id=eos)
    assert rows[1].finish_reason is FinishReason.STOP
    assert len({len(row.token_ids) for row in rows}) > 1


def test_positions_after_the_prompt_off_by_one_are_detected(pair, references):
    inputs = pair.target.prepare(*CASES[1])
    wrong = replace(inputs, next_position=inputs.next_position + 1)
    (row,) = decode(pair.target, [wrong])
    assert row.token_ids != references[1]


def test_positions_of_the_video_numbered_like_text_are_detected(pair, references):
    """For Qwen these are the 1-D positions that transformers falls back to, silently."""
    inputs = pair.target.prepare(*CASES[1])
    flat = torch.arange(inputs.num_tokens)
    if pair.family == "llava_onevision":  # flat is right there, so break the prompt's order
        flat = torch.where(inputs.visual_mask, 0, flat)
    wrong = replace(inputs, position_ids=flat)
    (row,) = decode(pair.target, [wrong])
    assert row.token_ids != references[1]


def test_logits_have_the_tokenizers_vocabulary_in_float32(pair):
    for model in (pair.target, pair.draft):
        session = model.open_session(1, 160, taps=NO_TAPS)
        logits = session.prefill(0, model.prepare(*CASES[0])).logits
        assert logits.shape == (len(model.tokenizer),)
        assert logits.dtype is torch.float32
