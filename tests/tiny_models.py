"""Tiny random Video-LLM pairs of both families, written to disk offline, and clips for them.

The weights say nothing; the code paths are the real ones: config, safetensors, tokenizer, processor
and chat template load by ``from_pretrained`` like a checkpoint of 72 billion parameters.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    SiglipVisionConfig,
)

from pipeline.records import ClipSpec, DecodedClip, VideoInfo, VideoObject, frames_digest

FAMILIES = ("qwen2_5_vl", "llava_onevision")
FRAME_PX = 56
_SEED = 0

_SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<video>",
]
_SENTENCES = [
    "a person walks a dog in the park while the sun goes down",
    "describe this video in detail please",
    "the camera pans left and shows a red car driving past a tall building",
    "system user assistant you are a helpful assistant",
    "what happens at the end of the clip ? nothing , it fades to black .",
]
_QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in c %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAVA_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} "
    "{% for c in m['content'] if c['type'] == 'video' %}<video>{% endfor %}\n"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of some 350 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _SENTENCES * 4,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=_SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=_SPECIAL_TOKENS,
        padding_side="left",
        model_max_length=4096,
    )


def write_tiny_model(
    family: str,
    folder: Path,
    *,
    noise: float = 0.0,
    vocab_padding: int = 8,
    tokenizer: PreTrainedTokenizerFast | None = None,
    num_kv_heads: int = 2,
) -> Path:
    """Write a checkpoint: random weights, always the same, disturbed by ``noise`` of their size.

    Its embeddings have ``vocab_padding`` rows more than the tokenizer has tokens.
    """
    tokenizer = tokenizer or tiny_tokenizer()
    torch.manual_seed(_SEED)
    build = _qwen if family == "qwen2_5_vl" else _llava
    model, processor = build(tokenizer, num_kv_heads)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * parameter.std().nan_to_num() * torch.randn_like(parameter)
    model.resize_token_embeddings(len(tokenizer) + vocab_padding)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_tiny_pair(family: str, folder: Path, num_kv_heads: int = 2) -> tuple[Path, Path]:
    """Write ``target`` and ``draft`` below the folder: one vocabulary, paddings that differ.

    The draft is the target disturbed, so that it agrees sometimes and not always.
    """
    return (
        write_tiny_model(family, folder / "target", vocab_padding=8, num_kv_heads=num_kv_heads),
        write_tiny_model(
            family, folder / "draft", vocab_padding=24, noise=0.1, num_kv_heads=num_kv_heads
        ),
    )


def tiny_clip(num_frames: int = 4, seed: int = 0, interval_s: float = 0.5) -> DecodedClip:
    """Frames of noise [F, 56, 56, 3], ``interval_s`` apart."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 255, (num_frames, FRAME_PX, FRAME_PX, 3), dtype=np.uint8)
    times = np.arange(num_frames) * interval_s
    duration_s = num_frames * interval_s
    video = VideoObject(uri=f"file:///noise-{seed}-{num_frames}.mp4", etag=str(seed), size_bytes=1)
    info = VideoInfo("mp4", "h264", FRAME_PX, FRAME_PX, 0, duration_s, 30.0, 30 * num_frames)
    spec = ClipSpec(video, clip_index=0, num_clips=1, start_s=0.0, end_s=duration_s)
    return DecodedClip(spec, info, frames, times, frames_digest(frames, times), decode_s=0.0)


# A large initial range: greedy output of a random model then varies instead of repeating a token.
_TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "initializer_range": 0.25,
}


def _text_config(tokenizer: PreTrainedTokenizerFast, num_kv_heads: int) -> dict[str, object]:
    return {
        **_TEXT,
        "num_key_value_heads": num_kv_heads,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _qwen(
    tokenizer: PreTrainedTokenizerFast, num_kv_heads: int
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            **_text_config(tokenizer, num_kv_heads),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3],  # adds up to half a head
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": 14,
            "out_hidden_size": _TEXT["hidden_size"],
            "window_size": 56,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
    )
    size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112 * 64}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        video_processor=Qwen2VLVideoProcessor(size=size, do_sample_frames=False),
        tokenizer=tokenizer,
        chat_template=_QWEN_TEMPLATE,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _llava(
    tokenizer: PreTrainedTokenizerFast, num_kv_heads: int
) -> tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]:
    token_id = tokenizer.convert_tokens_to_ids
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(**_text_config(tokenizer, num_kv_heads)),
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=FRAME_PX,
            patch_size=14,
            vision_use_head=False,
        ),
        image_token_index=token_id("<image>"),
        video_token_index=token_id("<video>"),
        image_grid_pinpoints=[[FRAME_PX, FRAME_PX], [FRAME_PX, 2 * FRAME_PX]],
    )
    size = {"height": FRAME_PX, "width": FRAME_PX}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=size, image_grid_pinpoints=config.image_grid_pinpoints
        ),
        video_processor=LlavaOnevisionVideoProcessor(size=size, do_sample_frames=False),
        tokenizer=tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_LLAVA_TEMPLATE,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor
