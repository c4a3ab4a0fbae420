"""Encoding a video on the ranks of a gang: each its share of the frames, or each all of them.

The tower is whole on every rank. Frames (of Qwen, pairs of them) do not attend to each other in it,
so a share is exact; the features then cross the network once. Which way is faster depends on both,
and is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter

import torch

from pipeline.gang.world import World
from pipeline.models.transformers_model import TransformersVideoLM

Vision = Mapping[str, torch.Tensor]
_TRIALS = 3


class GangVideoEncoder:
    """Features of a video, the same on all ranks, which call it together."""

    def __init__(self, model: TransformersVideoLM, world: World) -> None:
        self._model = model
        self._world = world
        self.is_split = False

    def __call__(self, vision: Vision) -> torch.Tensor:
        """Features [video features, E] in the order of the placeholders."""
        return self._split(vision) if self.is_split else self._model.encode_video(vision)

    @torch.inference_mode()
    def choose(self, vision: Vision) -> tuple[float, float]:
        """Encode a video both ways and keep the faster one; returns the seconds of each.

        Replicated, then split, best of some trials each; the ranks' times are added, so that all
        of them choose alike.
        """
        if self._world.size == 1:
            return 0.0, 0.0
        ways: list[Callable[[Vision], torch.Tensor]] = [self._model.encode_video, self._split]
        seconds = torch.tensor([min(self._time(way, vision) for _ in range(_TRIALS))
                                for way in ways], dtype=torch.float32)  # fmt: skip
        total = self._world.all_reduce(seconds.to(self._model.device)).tolist()
        self.is_split = total[1] < total[0]
        return total[0] / self._world.size, total[1] / self._world.size

    def _split(self, vision: Vision) -> torch.Tensor:
        """This rank's share, put in its place among zeros, and the sum over ranks."""
        num_units = self._model.num_video_units(vision)
        own = self._world.share(num_units)
        part = self._model.encode_units(vision, own.start, own.stop) if len(own) else None
        num_features = self._model.num_video_features(vision)
        size = self._model.model.config.text_config.hidden_size
        whole = torch.zeros(
            num_features, size, dtype=self._model.model.dtype, device=self._model.device
        )
        if part is not None:
            per_unit = num_features // num_units
            whole[own.start * per_unit : own.start * per_unit + len(part)] = part
        return self._world.all_reduce(whole)

    def _time(self, way: Callable[[Vision], torch.Tensor], vision: Vision) -> float:
        start = perf_counter()
        way(vision)
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)
        return perf_counter() - start
