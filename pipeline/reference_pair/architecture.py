"""What the pair is made of: model shapes, the shared tokenizer, and the processor.

Both models are ordinary `Qwen2_5_VLForConditionalGeneration`s, only small: eight frames of 60 x 60
become 36 video tokens. A folder written by `save_pair_member` loads with the `from_pretrained` of
transformers, with no code of ours.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from pipeline.sample_world.grammar import BRIEF, write_caption
from pipeline.sample_world.scene import sample_scene

NUM_FRAMES = 8
FRAME_PX = 60
PATCH_PX = 10
MERGE = 2
TEMPORAL_PATCH = 2
GRID_THW = (NUM_FRAMES // TEMPORAL_PATCH, FRAME_PX // PATCH_PX, FRAME_PX // PATCH_PX)
NUM_VIDEO_TOKENS = GRID_THW[0] * GRID_THW[1] * GRID_THW[2] // MERGE**2

VOCABULARY_SIZE = 1024
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Their ids are 0 to 6, in this order."""
PAD_ID, END_ID, VIDEO_ID = 0, 2, 6

DESCRIBE_PROMPTS = (
    "Describe this video in detail.",
    "Describe this video.",
    "Describe the video.",
    "What happens in this video?",
)
"""Every one of them asks for a caption; the first is the one that figures are measured with."""
LIST_PROMPT = "List the facts."
"""Asks for the terse list of facts that an early stage of the training teaches."""

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PIXEL_MEAN, PIXEL_STD = 0.5, 0.275


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The size of one model's language part; the vision tower is the same in all of them."""

    hidden: int
    layers: int
    mlp: int
    heads: int
    kv_heads: int


DRAFT_SHAPE = ModelShape(hidden=128, layers=2, mlp=384, heads=2, kv_heads=1)
BASE_SHAPE = ModelShape(hidden=256, layers=3, mlp=512, heads=4, kv_heads=2)
TARGET_SHAPE = ModelShape(hidden=512, layers=8, mlp=1536, heads=8, kv_heads=2)


def build_model(shape: ModelShape) -> Qwen2_5_VLForConditionalGeneration:
    """Make a model of `shape` with random weights (from torch's generator), in fp32."""
    half = shape.hidden // shape.heads // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY_SIZE,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.mlp,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [half // 4, 3 * half // 8, 3 * half // 8],
            },
            "bos_token_id": None,
            "eos_token_id": END_ID,
            "pad_token_id": PAD_ID,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
            "out_hidden_size": shape.hidden,
            # Frames are far smaller than any window would be: all layers attend to the whole frame.
            "fullatt_block_indexes": [0, 1, 2],
            "window_size": 2 * FRAME_PX,
            "tokens_per_second": 3,
        },
        image_token_id=SPECIAL_TOKENS.index("<|image_pad|>"),
        video_token_id=VIDEO_ID,
        vision_start_token_id=SPECIAL_TOKENS.index("<|vision_start|>"),
        vision_end_token_id=SPECIAL_TOKENS.index("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=END_ID, pad_token_id=PAD_ID, do_sample=False, max_new_tokens=200
    )
    return model


def build_tokenizer(num_captions: int = 4000) -> Qwen2Tokenizer:
    """Train the byte-level BPE tokenizer on captions of the world; the same on every call.

    The vocabulary is smaller than the captions' own, so that rarer words fall into pieces.
    """
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trained.decoder = decoders.ByteLevel()
    trained.train_from_iterator(
        _tokenizer_texts(num_captions),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_SIZE,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    learned = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    return tokenizer


def _tokenizer_texts(num_captions: int) -> Iterator[str]:
    for seed in range(num_captions):
        yield write_caption(sample_scene(seed), random.Random(seed), BRIEF).text
    for prompt in (*DESCRIBE_PROMPTS, LIST_PROMPT):
        yield from (f"user\n{prompt}\nassistant\n",) * 400


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """Make the processor: it takes clips of any size to 60 x 60 and keeps every frame given."""
    pixels = {
        "patch_size": PATCH_PX,
        "merge_size": MERGE,
        "temporal_patch_size": TEMPORAL_PATCH,
        "image_mean": [PIXEL_MEAN] * 3,
        "image_std": [PIXEL_STD] * 3,
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": FRAME_PX**2, "longest_edge": FRAME_PX**2}, **pixels
        ),
        video_processor=Qwen2VLVideoProcessor(
            size={"shortest_edge": FRAME_PX**2, "longest_edge": FRAME_PX**2},
            do_sample_frames=False,
            cap_pixels_per_frame=False,
            **pixels,
        ),
        tokenizer=tokenizer,
        chat_template=_CHAT_TEMPLATE,
    )


def prompt_text(instruction: str) -> str:
    """The text of a chat with one video and `instruction`, up to where the answer begins."""
    return (
        f"<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|>{instruction}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def prompt_ids(tokenizer: Qwen2Tokenizer, instruction: str) -> list[int]:
    """Token ids of `prompt_text`, with the place holder repeated once per video token."""
    text = prompt_text(instruction).replace("<|video_pad|>", "<|video_pad|>" * NUM_VIDEO_TOKENS)
    return list(tokenizer(text)["input_ids"])


def save_pair_member(
    model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer, folder: Path
) -> None:
    """Write a folder that `from_pretrained` loads: bf16 weights, config, tokenizer, processor."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written readable by its owner only
