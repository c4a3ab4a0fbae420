"""The models load anywhere, train in batches as they infer, and grow without forgetting."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from pipeline.reference_pair.architecture import (
    DESCRIBE_PROMPTS,
    END_ID,
    LIST_PROMPT,
    NUM_VIDEO_TOKENS,
    PAD_ID,
    SPECIAL_TOKENS,
    VIDEO_ID,
    VOCABULARY_SIZE,
    ModelShape,
    build_model,
    build_processor,
    build_tokenizer,
    prompt_ids,
    prompt_text,
    save_pair_member,
)
from pipeline.reference_pair.batched import caption_logits, to_patches
from pipeline.reference_pair.growth import grow
from pipeline.reference_pair.properties import model_inputs, write_captions

SMALL = ModelShape(hidden=64, layers=2, mlp=96, heads=2, kv_heads=1)
LARGE = ModelShape(hidden=128, layers=5, mlp=256, heads=4, kv_heads=1)


def _shaken(shape: ModelShape) -> Qwen2_5_VLForConditionalGeneration:
    """A random model whose biases and norms are no longer trivial."""
    model = build_model(shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def test_the_tokenizer_is_reproducible_and_reversible(tokenizer):
    again = build_tokenizer()
    assert again.get_vocab() == tokenizer.get_vocab()
    assert len(tokenizer) == VOCABULARY_SIZE
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(7))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (PAD_ID, END_ID)
    text = "A small red circle, which drifts left; naïve 42 ✓"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_processor_writes_the_prompt_that_training_uses(tokenizer, clips):
    processor = build_processor(tokenizer)
    message = {
        "role": "user",
        "content": [{"type": "video"}, {"type": "text", "text": DESCRIBE_PROMPTS[0]}],
    }
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    assert text == prompt_text(DESCRIBE_PROMPTS[0])
    inputs = model_inputs(processor, clips[:1])
    ids = inputs["input_ids"][0].tolist()
    assert ids == prompt_ids(tokenizer, DESCRIBE_PROMPTS[0])
    assert ids.count(VIDEO_ID) == NUM_VIDEO_TOKENS
    patches = to_patches(clips[0].frames[None])[0]
    assert torch.allclose(inputs["pixel_values_videos"], patches, atol=1e-5)


def test_the_processor_takes_larger_frames_to_the_same_size(tokenizer, clips):
    larger = clips[0].frames.repeat(4, axis=1).repeat(4, axis=2)
    processor = build_processor(tokenizer)
    inputs = processor.video_processor(videos=[larger], return_tensors="pt")
    assert inputs["video_grid_thw"].tolist() == [[4, 6, 6]]


def test_a_saved_member_loads_with_transformers_alone(tmp_path: Path, tokenizer, clips):
    model = _shaken(SMALL)
    save_pair_member(model, tokenizer, tmp_path)
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tmp_path)
    weight = model.lm_head.weight
    assert torch.equal(loaded.lm_head.weight, weight.to(torch.bfloat16).float())
    assert loaded.generation_config.eos_token_id == END_ID
    loaded.generation_config.max_new_tokens = 5
    assert len(write_captions(loaded, processor, clips[:2])) == 2


def test_batched_training_forward_equals_that_of_transformers(tokenizer, clips):
    model = _shaken(SMALL)
    processor = build_processor(tokenizer)
    texts = ["A dark striped backdrop.", "We see", "It moves right away, to the left"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    tokens = torch.full((3, max(map(len, ids))), PAD_ID)
    for row, caption in enumerate(ids):
        tokens[row, : len(caption)] = torch.tensor(caption)
    prompt = tuple(prompt_ids(tokenizer, DESCRIBE_PROMPTS[0]))
    patches = to_patches(np.stack([clip.frames for clip in clips[:3]]))
    with torch.inference_mode():
        batched = caption_logits(
            model, patches, [clip.duration_s for clip in clips[:3]], prompt, tokens
        )
        for row, caption in enumerate(ids):
            inputs = dict(model_inputs(processor, [clips[row]]))
            extra = torch.tensor([caption])
            inputs["input_ids"] = torch.cat([inputs["input_ids"], extra], dim=1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            zeros = torch.zeros_like(extra, dtype=inputs["mm_token_type_ids"].dtype)
            inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], zeros], dim=1)
            expected = model(**inputs).logits[0, len(prompt) - 1 : -1]
            assert torch.allclose(batched[row, : len(caption)], expected, atol=1e-5)


def test_growth_keeps_the_logits(tokenizer):
    small = _shaken(SMALL)
    large = grow(small, SMALL, LARGE).eval()
    prompt = tuple(prompt_ids(tokenizer, LIST_PROMPT))
    arguments = (torch.randn(2, 144, 600), [2.0, 3.2], prompt, torch.randint(7, 999, (2, 12)))
    with torch.inference_mode():
        expected = caption_logits(small, *arguments)
        assert torch.allclose(caption_logits(large, *arguments), expected, atol=1e-4)
    copies = large.model.language_model.layers[0].self_attn.q_proj.weight.chunk(2, dim=1)
    assert not torch.allclose(*copies)  # else training could never tell the copies apart


def test_growth_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="cannot grow"):
        grow(build_model(SMALL), SMALL, SMALL)
