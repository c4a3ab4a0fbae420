"""Measure the pair on clips that it was not trained on.

Captions are written by plain greedy decoding with transformers' own `generate` and processor, in
fp32, so the figures hold for whoever loads the folders. Latencies are of one thread at batch 1.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoProcessor,
    DynamicCache,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)
from transformers.video_utils import VideoMetadata

from pipeline.reference_pair.architecture import (
    DESCRIBE_PROMPTS,
    END_ID,
    NUM_FRAMES,
    PAD_ID,
    prompt_ids,
    prompt_text,
)
from pipeline.reference_pair.batched import caption_logits, to_patches
from pipeline.reference_pair.frames import Clip, FramePool
from pipeline.reference_pair.lessons import encode_captions
from pipeline.sample_world.facts import (
    VISUAL_WORDS,
    caption_facts,
    facts_right,
    scene_facts,
    visual_spans,
)
from pipeline.sample_world.grammar import WrittenCaption

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over clips (or over tokens, clip by clip) and the half width of its 95 % interval."""

    mean: float
    margin: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Draft against target, teacher-forced on the target's greedy captions; shares of tokens."""

    fact_tokens: Estimate
    mismatches: Estimate
    mismatches_on_facts: float
    """Share of the mismatches where the target's token states a fact, or the draft's is of a word
    that can."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Median seconds of a step at batch 1, on one thread, in fp32, at about 100 tokens."""

    draft_step_s: float
    target_step_s: float
    target_verify_s: float
    verify_width: int

    @property
    def draft_ratio(self) -> float:
        """A draft step over a target step (r)."""
        return self.draft_step_s / self.target_step_s

    @property
    def verify_ratio(self) -> float:
        """A verification of `verify_width` tokens over a target step (v)."""
        return self.target_verify_s / self.target_step_s


@dataclass(frozen=True, slots=True)
class Properties:
    """The held-out table."""

    split: str
    num_clips: int
    target_facts: Estimate
    target_all_facts: float
    """Share of the clips whose caption has every fact right."""
    draft_facts: Estimate
    caption_tokens: Estimate
    caption_tokens_range: tuple[int, int]
    agreement: Agreement
    latency: Latency


def load_member(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """Load one model of the pair in fp32, and its processor."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder)


def measure(pair: Path, pool: FramePool, split: str, num_clips: int) -> Properties:
    """Measure the pair in `pair` (folders target/ and draft/) on the first clips of a split."""
    target, processor = load_member(pair / "target")
    draft, _ = load_member(pair / "draft")
    clips = [pool[index] for index in range(num_clips)]
    target_captions = write_captions(target, processor, clips)
    draft_captions = write_captions(draft, processor, clips)
    target_right = _rights(target_captions, clips)
    lengths = [len(ids) for ids in processor.tokenizer(target_captions)["input_ids"]]
    return Properties(
        split=split,
        num_clips=num_clips,
        target_facts=_estimate(target_right),
        target_all_facts=sum(right == 1 for right in target_right) / num_clips,
        draft_facts=_estimate(_rights(draft_captions, clips)),
        caption_tokens=_estimate(lengths),
        caption_tokens_range=(min(lengths), max(lengths)),
        agreement=_agreement(draft, target, processor, clips, target_captions),
        latency=_latency(draft, target, processor, clips[0]),
    )


def _rights(captions: list[str], clips: list[Clip]) -> list[float]:
    return [
        facts_right(caption_facts(caption), scene_facts(clip.scene))
        for caption, clip in zip(captions, clips)
    ]


def _estimate(values: list[float] | list[int]) -> Estimate:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Estimate(float(np.mean(values)), 1.96 * spread / len(values) ** 0.5)


@torch.inference_mode()
def write_captions(
    model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, clips: list[Clip]
) -> list[str]:
    """Caption clips greedily, with the first of the prompts."""
    captions: list[str] = []
    for batch in _batches(clips):
        inputs = model_inputs(processor, batch)
        ids = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        captions += processor.batch_decode(ids, skip_special_tokens=True)
    return captions


def model_inputs(processor: Qwen2_5_VLProcessor, clips: list[Clip]) -> dict[str, Tensor]:
    """What `generate` takes to caption `clips`."""
    metadata = [
        VideoMetadata(
            total_num_frames=NUM_FRAMES,
            fps=NUM_FRAMES / clip.duration_s,
            frames_indices=list(range(NUM_FRAMES)),
        )
        for clip in clips
    ]
    return processor(
        text=[prompt_text(DESCRIBE_PROMPTS[0])] * len(clips),
        videos=[np.array(clip.frames) for clip in clips],
        video_metadata=metadata,
        return_tensors="pt",
    )


def _batches(clips: list[Clip]) -> Iterator[list[Clip]]:
    for start in range(0, len(clips), _BATCH):
        yield clips[start : start + _BATCH]


@torch.inference_mode()
def _agreement(
    draft: Qwen2_5_VLForConditionalGeneration,
    target: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    clips: list[Clip],
    captions: list[str],
) -> Agreement:
    tokenizer = processor.tokenizer
    prompt = tuple(prompt_ids(tokenizer, DESCRIBE_PROMPTS[0]))
    visual_tokens = torch.tensor(
        [tokenizer.decode([i]).strip().lower() in VISUAL_WORDS for i in range(len(tokenizer))]
    )
    fact_shares, mismatch_shares = [], []
    num_mismatches = num_on_facts = 0
    for start in range(0, len(clips), _BATCH):
        batch = clips[start : start + _BATCH]
        written = [
            WrittenCaption(text, tuple(visual_spans(text)))
            for text in captions[start : start + _BATCH]
        ]
        tokens, is_fact = encode_captions(tokenizer, written)
        patches = to_patches(np.stack([clip.frames for clip in batch]))
        durations = [clip.duration_s for clip in batch]
        by_target = caption_logits(target, patches, durations, prompt, tokens).argmax(-1)
        by_draft = caption_logits(draft, patches, durations, prompt, tokens).argmax(-1)
        real = tokens != PAD_ID
        differs = (by_target != by_draft) & real
        num_mismatches += int(differs.sum())
        # The target's side is known in its context. Of the draft's token only the word is: "right"
        # counts also where the draft would have gone on to "right away", so the share is an upper
        # bound.
        on_fact = is_fact | visual_tokens[by_draft]
        num_on_facts += int((differs & on_fact).sum())
        words = real & (tokens != END_ID)
        fact_shares += (is_fact.sum(1) / words.sum(1)).tolist()
        mismatch_shares += (differs.sum(1) / real.sum(1)).tolist()
    return Agreement(
        fact_tokens=_estimate(fact_shares),
        mismatches=_estimate(mismatch_shares),
        mismatches_on_facts=num_on_facts / max(1, num_mismatches),
    )


@torch.inference_mode()
def _latency(
    draft: Qwen2_5_VLForConditionalGeneration,
    target: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    clip: Clip,
    verify_width: int = 10,
) -> Latency:
    inputs = model_inputs(processor, [clip])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Latency(
            draft_step_s=_step_s(draft, inputs, 1),
            target_step_s=_step_s(target, inputs, 1),
            target_verify_s=_step_s(target, inputs, verify_width),
            verify_width=verify_width,
        )
    finally:
        torch.set_num_threads(threads)


def _step_s(
    model: Qwen2_5_VLForConditionalGeneration, inputs: dict[str, Tensor], width: int
) -> float:
    """Median time of feeding `width` tokens to a model that has read the prompt and 50 tokens."""
    cache = DynamicCache(config=model.config)
    model(**inputs, past_key_values=cache, use_cache=True)
    language = model.model.language_model

    def step(num_tokens: int) -> None:
        start = cache.get_seq_length()
        positions = torch.arange(start, start + num_tokens).expand(3, 1, -1)
        hidden = language(
            input_ids=torch.full((1, num_tokens), END_ID),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        model.lm_head(hidden)

    step(50)

    def once() -> float:
        started_s = time.perf_counter()
        step(width)
        elapsed_s = time.perf_counter() - started_s
        cache.crop(-width)
        return elapsed_s

    return _median(once)


def _median(once: Callable[[], float], repeats: int = 40) -> float:
    for _ in range(5):
        once()
    return statistics.median(once() for _ in range(repeats))
