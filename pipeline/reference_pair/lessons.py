"""What one training step learns from: clips, the texts about them, and the loss.

Three lessons, in the order in which they are taught. Natural captions alone never teach motion;
looking first and listing facts second does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from pipeline.reference_pair.architecture import (
    DESCRIBE_PROMPTS,
    END_ID,
    LIST_PROMPT,
    NUM_VIDEO_TOKENS,
    PAD_ID,
    prompt_ids,
)
from pipeline.reference_pair.batched import caption_logits, see, to_patches
from pipeline.reference_pair.frames import Clip
from pipeline.sample_world.grammar import Style, WrittenCaption, write_caption
from pipeline.sample_world.scene import (
    COLOURS,
    COUNTS,
    MARKS,
    MOTIONS,
    PATTERNS,
    SHAPES,
    SIZES,
    TONES,
    Scene,
)

_IGNORE = -100
_THING_SLOTS = (SIZES, COLOURS, SHAPES, MOTIONS)
_SLOTS = (TONES, PATTERNS, MARKS, COUNTS, *_THING_SLOTS, *_THING_SLOTS)
_SLOT_NAMES = (
    *("tone", "pattern", "marks", "count"),
    *("size", "colour", "shape", "motion"),
    *("size'", "colour'", "shape'", "motion'"),
)
_HARD_SLOTS = ("motion", "motion'", "shape", "shape'")


@dataclass(frozen=True, slots=True)
class Lesson:
    """A loss to descend, and a share of right answers to print (facts or slots, 0 to 1)."""

    loss: Tensor
    right: float


class SlotHead(nn.Module):
    """Read every property of the scene off the video tokens: [B, 36, D] to one logit per value.

    It exists only to train the vision tower and is thrown away afterwards.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(hidden, 48)
        self.mix = nn.Linear(NUM_VIDEO_TOKENS * 48, 384)
        self.read = nn.Linear(384, sum(len(values) for values in _SLOTS))

    def forward(self, seen: Tensor) -> Tensor:
        """Return logits [B, sum of the numbers of values of all slots]."""
        return self.read(F.gelu(self.mix(self.narrow(seen).flatten(1))))


def augmented(clips: list[Clip], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Stack the frames [B, T, H, W, 3] with a little brightness, contrast and sensor noise.

    The clips of a batch share one field of noise: drawing it is what costs.
    """
    frames = np.stack([clip.frames for clip in clips]).astype(np.float32)
    per_clip = (len(clips), 1, 1, 1, 1)
    gain = rng.uniform(0.93, 1.07, per_clip).astype(np.float32)
    offset = rng.uniform(-8, 8, per_clip).astype(np.float32)
    noise = rng.standard_normal(frames.shape[1:], dtype=np.float32) * 3
    return (frames * gain + offset + noise).clip(0, 255).astype(np.uint8)


def look(
    model: Qwen2_5_VLForConditionalGeneration,
    head: SlotHead,
    clips: list[Clip],
    rng: np.random.Generator,
) -> Lesson:
    """Name every property from the video tokens, without any language."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(see(model.model.visual, to_patches(augmented(clips, rng))))
    labels = torch.tensor([_slot_labels(clip.scene) for clip in clips])
    losses, right, asked = [], 0, 0
    widths = [len(values) for values in _SLOTS]
    for slot, slot_logits in enumerate(logits.float().split(widths, dim=1)):
        known = labels[:, slot] != _IGNORE
        if not known.any():
            continue
        weight = 2.0 if _SLOT_NAMES[slot] in _HARD_SLOTS else 1.0
        losses.append(weight * F.cross_entropy(slot_logits[known], labels[known, slot]))
        right += int((slot_logits[known].argmax(1) == labels[known, slot]).sum())
        asked += int(known.sum())
    return Lesson(torch.stack(losses).mean(), right / asked)


def _slot_labels(scene: Scene) -> list[int]:
    labels = [
        TONES.index(scene.tone),
        PATTERNS.index(scene.pattern),
        MARKS.index(scene.marks),
        COUNTS.index(scene.count),
    ]
    for thing in scene.things:
        values = (thing.size, thing.colour, thing.shape, thing.motion)
        labels += [slot.index(value) for slot, value in zip(_THING_SLOTS, values)]
    return labels + [_IGNORE] * (len(_SLOTS) - len(labels))


def write_list(scene: Scene) -> WrittenCaption:
    """The facts of a scene in a fixed order and nearly without other words."""
    words = [scene.tone, scene.pattern, scene.marks, scene.count]
    for thing in scene.things:
        motion = thing.motion + "s" if thing.motion in ("grow", "shrink", "blink") else thing.motion
        words += [thing.size, thing.colour, thing.shape, motion]
    text, spans = "", []
    for word in words:
        text += " "
        spans.append((len(text), len(text) + len(word)))
        text += word
    return WrittenCaption(text, tuple(spans))


def write(
    model: Qwen2_5_VLForConditionalGeneration,
    tokenizer: Qwen2Tokenizer,
    clips: list[Clip],
    rng: np.random.Generator,
    *,
    style: Style | None,
    fact_weight: float,
) -> Lesson:
    """Predict the next token of a text about each clip: a fresh caption in `style`, or the list."""
    words = random.Random(int(rng.integers(1 << 62)))
    if style is None:
        texts = [write_list(clip.scene) for clip in clips]
        instruction = LIST_PROMPT
    else:
        texts = [write_caption(clip.scene, words, style) for clip in clips]
        instruction = words.choice(DESCRIBE_PROMPTS)
    prompt = tuple(prompt_ids(tokenizer, instruction))
    tokens, is_fact = encode_captions(tokenizer, texts)
    patches = to_patches(augmented(clips, rng))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = caption_logits(model, patches, [c.duration_s for c in clips], prompt, tokens)
    losses = F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten(), reduction="none")
    weights = (tokens != PAD_ID).float() * torch.where(is_fact, fact_weight, 1.0)
    right = (logits.argmax(-1) == tokens)[is_fact].float().mean()
    return Lesson((losses * weights.flatten()).sum() / weights.sum(), float(right))


def encode_captions(
    tokenizer: Qwen2Tokenizer, captions: list[WrittenCaption]
) -> tuple[Tensor, Tensor]:
    """Token ids [B, N], ended and padded on the right, and which of them carry a fact [B, N]."""
    encoded = tokenizer([caption.text for caption in captions], return_offsets_mapping=True)
    length = max(len(ids) for ids in encoded["input_ids"]) + 1
    tokens = torch.full((len(captions), length), PAD_ID)
    is_fact = torch.zeros(len(captions), length, dtype=torch.bool)
    for row, caption in enumerate(captions):
        ids = encoded["input_ids"][row]
        tokens[row, : len(ids) + 1] = torch.tensor([*ids, END_ID])
        is_fact[row, : len(ids)] = torch.tensor(
            fact_tokens(encoded["offset_mapping"][row], caption.spans)
        )
    return tokens, is_fact


def fact_tokens(offsets: list[tuple[int, int]], spans: tuple[tuple[int, int], ...]) -> list[bool]:
    """Which tokens, given by their character offsets, overlap a visual word."""
    return [any(a < end and b > start for start, end in spans) for a, b in offsets]
