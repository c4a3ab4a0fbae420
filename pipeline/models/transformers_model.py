"""What all transformers Video-LLMs share: tokenizer, end tokens, sessions, text.

A family (qwen2_5_vl.py, llava_onevision.py) adds how a clip becomes inputs and how its video is
encoded. Shapes: F frames, H and W their sides in pixels, T prompt length, M visual tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from pipeline.config import PromptConfig
from pipeline.decoding.prefix_cache import PrefixCache
from pipeline.decoding.session import NO_TAPS, ModelInputs, Taps
from pipeline.models.base import ClipInputError, Turn, check_turns, turns_of
from pipeline.models.decoder_stack import DecoderStack
from pipeline.models.session import LanguageModel, TransformersSession
from pipeline.records import DecodedClip


class TransformersVideoLM(ABC):
    """A loaded checkpoint of one family. ``model`` is in eval mode, on its device."""

    model_type: ClassVar[str]
    """``config.model_type`` of the family's checkpoints."""
    model_class: ClassVar[Any]
    """The transformers class that loads them."""
    processor_options: ClassVar[Mapping[str, Any]] = {}
    """What the family's processor takes beside the options common to all."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        model_id: str,
        revision: str,
        stack: DecoderStack | None = None,
    ) -> None:
        """``stack`` is the decoder where it is not simply the model's own (a rank's part)."""
        text_config = model.config.text_config
        sliding = set(text_config.layer_types) - {"full_attention"}
        if sliding:
            raise ValueError(f"layers of type {sorted(sliding)}: only full attention is supported")
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        rope_type = text_config.rope_parameters["rope_type"]
        if rope_type in ("dynamic", "longrope"):
            raise ValueError(f"rope type {rope_type!r}: its angles change as a row grows")
        self._stack = stack
        self._model_id = model_id
        self._revision = revision
        eos = model.generation_config.eos_token_id
        if eos is None:
            eos = self.tokenizer.eos_token_id
        if eos is None:
            raise ValueError("neither generation_config.json nor the tokenizer has an eos_token_id")
        self._eos_token_ids = frozenset([eos] if isinstance(eos, int) else eos)
        if self.vocab_size > text_config.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.vocab_size} tokens, the model {text_config.vocab_size}"
            )

    @property
    def model_id(self) -> str:
        """Hub name or folder, as configured."""
        return self._model_id

    @property
    def revision(self) -> str:
        """Commit, or content digest of the folder."""
        return self._revision

    @property
    def vocab_size(self) -> int:
        """V: tokens of the tokenizer, added ones included."""
        return len(self.tokenizer)

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The checkpoint's own end tokens (its generation config), else the tokenizer's."""
        return self._eos_token_ids

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return int(self.model.config.text_config.num_hidden_layers)

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of all layers in the model's dtype, bytes; of a rank, its heads' own."""
        text_config = self.model.config.text_config
        num_heads = text_config.num_key_value_heads
        if self._stack is not None:
            num_heads = self._stack.num_kv_heads
        per_layer = 2 * num_heads * head_size(text_config) * self.model.dtype.itemsize
        return int(per_layer * text_config.num_hidden_layers)

    @property
    def device(self) -> torch.device:
        """Of the embeddings, where a session's cache lies too."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def special_token_ids(self) -> frozenset[int]:
        """The tokenizer's special tokens, added ones included."""
        added = self.tokenizer.added_tokens_decoder
        return frozenset(self.tokenizer.all_special_ids) | frozenset(
            token_id for token_id, token in added.items() if token.special
        )

    def token_texts(self) -> Sequence[str]:
        """Each token as the vocabulary spells it; byte-level blanks show as their mark."""
        texts: list[str] = self.tokenizer.convert_ids_to_tokens(list(range(self.vocab_size)))
        return [text or "" for text in texts]

    def decode_text(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens and outer blanks."""
        text: str = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text.strip()

    @property
    def stack(self) -> DecoderStack:
        """The decoder that all sessions share; its weights are packed when first asked for."""
        if self._stack is None:
            self._stack = DecoderStack(
                self.model.model.language_model,
                self.model.lm_head,
                head_size=head_size(self.model.config.text_config),
                vocab_size=self.vocab_size,
            )
        return self._stack

    def open_session(
        self,
        num_slots: int,
        max_length: int,
        taps: Taps = NO_TAPS,
        prefixes: PrefixCache | None = None,
    ) -> TransformersSession:
        """Slots on this model; see VideoLM."""
        language_model = LanguageModel(self.stack, self.encode_video)
        return TransformersSession(language_model, num_slots, max_length, taps, prefixes)

    def prepare(self, clip: DecodedClip, prompt: PromptConfig) -> ModelInputs:
        """The clip and the prompt as the model takes them; see VideoLM."""
        return self.converse(clip, turns_of(prompt))

    def converse(self, clip: DecodedClip | None, turns: Sequence[Turn]) -> ModelInputs:
        """A conversation as the model takes it; see VideoLM."""
        check_turns(clip, turns)
        text = self._text_of(turns)
        if clip is None:
            return self._text_inputs(text)
        self.check_frames(clip.frames.shape)
        batch = self.processor(
            text=[text],
            videos=[clip.frames],
            video_metadata=[_metadata(clip)],
            do_sample_frames=False,
            do_resize=False,
            return_tensors="pt",
            **self.processor_options,
        )
        return replace(self.inputs_from(batch), frames_digest=clip.frames_digest)

    @abstractmethod
    def check_frames(self, shape: tuple[int, ...]) -> None:
        """Raise ClipInputError unless frames of shape (F, H, W, 3) fit the vision tower."""

    @abstractmethod
    def inputs_from(self, batch: Mapping[str, Any]) -> ModelInputs:
        """ModelInputs of what the family's processor returned for one prompt."""

    @abstractmethod
    def num_video_units(self, vision: Mapping[str, torch.Tensor]) -> int:
        """Parts of ModelInputs.vision that the tower encodes each for itself."""

    @abstractmethod
    def num_video_features(self, vision: Mapping[str, torch.Tensor]) -> int:
        """M, the features that all of the video has."""

    @abstractmethod
    def encode_units(
        self, vision: Mapping[str, torch.Tensor], start: int, stop: int
    ) -> torch.Tensor:
        """Features [., E] of the units from ``start`` to before ``stop``, in order."""

    def encode_video(self, vision: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Features [M, E] of ModelInputs.vision, in the order of the placeholders."""
        return self.encode_units(vision, 0, self.num_video_units(vision))

    def _text_inputs(self, text: str) -> ModelInputs:
        """A prompt without a video: every axis counts its tokens."""
        token_ids = torch.tensor(self.tokenizer(text)["input_ids"])
        return ModelInputs(
            token_ids=token_ids,
            position_ids=torch.arange(len(token_ids)),
            visual_mask=torch.zeros(len(token_ids), dtype=torch.bool),
            next_position=len(token_ids),
            vision={},
        )

    def _text_of(self, turns: Sequence[Turn]) -> str:
        """The chat template filled in; a turn's video comes before its text."""
        messages = [
            {
                "role": turn.role,
                "content": [
                    *([{"type": "video"}] if turn.has_video else []),
                    {"type": "text", "text": turn.text},
                ],
            }
            for turn in turns
        ]
        text: str = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return text


def head_size(text_config: Any) -> int:
    """D of a language model's config."""
    own: int | None = getattr(text_config, "head_dim", None)
    return own or int(text_config.hidden_size) // int(text_config.num_attention_heads)


def _metadata(clip: DecodedClip) -> VideoMetadata:
    """The clip's sampling rate, from its true timestamps, as the processor takes it.

    The frames are numbered as if they were the whole video, so the rate is theirs and not the
    source's. Raises ClipInputError unless the timestamps increase.
    """
    times = clip.timestamps_s
    num_frames, height, width, _ = clip.frames.shape
    if len(times) != num_frames or bool((np.diff(times) <= 0).any()):
        raise ClipInputError(
            f"{num_frames} frames need as many increasing timestamps, got {len(times)}: {times}"
        )
    # The interval of a single frame is never used: its temporal position is 0 at any rate.
    interval_s = float(times[-1] - times[0]) / (num_frames - 1) if num_frames > 1 else 1.0
    return VideoMetadata(
        total_num_frames=num_frames,
        fps=1.0 / interval_s,
        width=width,
        height=height,
        duration=num_frames * interval_s,
        frames_indices=list(range(num_frames)),
    )
