"""What a gang does before its first clip: kernels, connections and caches are used once."""

from __future__ import annotations

from pipeline.config import PromptConfig
from pipeline.models.base import VideoLM
from pipeline.records import DecodedClip

_TOKENS = 4


def warm_up(model: VideoLM, clip: DecodedClip, prompt: PromptConfig) -> None:
    """Read the clip's prompt, then one token and a block of some."""
    inputs = model.prepare(clip, prompt)
    session = model.open_session(1, inputs.num_tokens + 2 * _TOKENS)
    first = int(session.prefill(0, inputs).logits.argmax())
    session.forward([0], [[first]])
    session.forward([0], [[first] * _TOKENS])
    session.release(0)
