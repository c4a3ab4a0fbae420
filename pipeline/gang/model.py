"""A rank's part of the target, and the whole of it as rank 0 sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from pipeline.config import PromptConfig
from pipeline.decoding.prefix_cache import PrefixCache
from pipeline.decoding.session import NO_TAPS, ModelInputs, Taps
from pipeline.gang.commands import CarriedInputs, SharedInputs
from pipeline.gang.sessions import Leader, LeaderSession
from pipeline.gang.video import GangVideoEncoder
from pipeline.gang.world import World
from pipeline.models.base import Turn, turns_of
from pipeline.models.session import LanguageModel, TransformersSession
from pipeline.models.transformers_model import TransformersVideoLM
from pipeline.records import DecodedClip


class RankModel:
    """A rank's part of the target and what opens its part of a session."""

    def __init__(self, model: TransformersVideoLM, world: World) -> None:
        self.model = model
        self.encode_video = GangVideoEncoder(model, world)

    def open_session(
        self,
        num_slots: int,
        max_length: int,
        taps: Taps = NO_TAPS,
        prefixes: PrefixCache | None = None,
    ) -> TransformersSession:
        """This rank's part of a session: the cache of its heads."""
        language_model = LanguageModel(self.model.stack, self.encode_video)
        return TransformersSession(language_model, num_slots, max_length, taps, prefixes)


class ShardedVideoLM:
    """The whole target as rank 0 sees it; implements VideoLM."""

    def __init__(self, part: RankModel, leader: Leader) -> None:
        self._model = part.model
        self._leader = leader

    @property
    def model_id(self) -> str:
        """Hub name or folder, as configured."""
        return self._model.model_id

    @property
    def revision(self) -> str:
        """Commit, or content digest of the folder."""
        return self._model.revision

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end a caption."""
        return self._model.eos_token_ids

    @property
    def vocab_size(self) -> int:
        """V of the tokenizer."""
        return self._model.vocab_size

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return self._model.num_layers

    @property
    def kv_bytes_per_token(self) -> int:
        """What one cached token takes on each rank, bytes."""
        return self._model.kv_bytes_per_token

    @property
    def device(self) -> torch.device:
        """Of rank 0, which also has the draft: no rank has less room for keys and values."""
        return self._model.device

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Tokens that are no text."""
        return self._model.special_token_ids

    def token_texts(self) -> Sequence[str]:
        """Each token as the tokenizer writes it."""
        return self._model.token_texts()

    def decode_text(self, token_ids: Sequence[int]) -> str:
        """Text of generated ids."""
        return self._model.decode_text(token_ids)

    def prepare(self, clip: DecodedClip, prompt: PromptConfig) -> ModelInputs:
        """The clip and the prompt as the model takes them; the other ranks must have the clip."""
        return self.converse(clip, turns_of(prompt))

    def converse(self, clip: DecodedClip | None, turns: Sequence[Turn]) -> ModelInputs:
        """A conversation as the model takes it; the other ranks must have the clip."""
        values = _values(self._model.converse(clip, turns))
        return SharedInputs(**values, clip_id=clip.clip_id if clip is not None else "")

    def open_session(
        self,
        num_slots: int,
        max_length: int,
        taps: Taps = NO_TAPS,
        prefixes: PrefixCache | None = None,
    ) -> LeaderSession:
        """Slots on all ranks."""
        return self._leader.open_session(num_slots, max_length, taps, prefixes)


class LiveShardedVideoLM(ShardedVideoLM):
    """The same for an endpoint: the other ranks know a clip by what rank 0 sends of it."""

    def converse(self, clip: DecodedClip | None, turns: Sequence[Turn]) -> ModelInputs:
        """A conversation as the model takes it, with its pixels."""
        return CarriedInputs(**_values(self._model.converse(clip, turns)))


def _values(inputs: ModelInputs) -> dict[str, Any]:
    return {field.name: getattr(inputs, field.name) for field in fields(ModelInputs)}
