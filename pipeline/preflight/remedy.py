"""What would fit instead: other settings, found by reckoning them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product

from pipeline.config import RunConfig, SamplingPolicy
from pipeline.preflight.memory import possible_ranks
from pipeline.preflight.plan import Pair, reckon

MAX_RANKS = 16


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change of settings; None leaves one as it is."""

    num_ranks: int | None = None
    max_num_seqs: int | None = None
    num_frames: int | None = None

    def applied(self, config: RunConfig) -> RunConfig:
        """The config with the change."""
        if self.num_ranks is not None:
            models = config.models.model_copy(update={"tensor_parallel_size": self.num_ranks})
            cluster = config.cluster.model_copy(update={"captioner_gpus": float(self.num_ranks)})
            config = config.model_copy(update={"models": models, "cluster": cluster})
        if self.max_num_seqs is not None:
            generation = config.generation.model_copy(update={"max_num_seqs": self.max_num_seqs})
            config = config.model_copy(update={"generation": generation})
        if self.num_frames is not None:
            sampling = config.video.sampling.model_copy(
                update={_frames_key(config): self.num_frames}
            )
            video = config.video.model_copy(update={"sampling": sampling})
            config = config.model_copy(update={"video": video})
        return config

    def flags(self, config: RunConfig) -> str:
        """As they are written on the command line."""
        flags = []
        if self.num_ranks is not None:
            flags.append(f"--tensor-parallel-size {self.num_ranks}")
            flags.append(f"--cluster.captioner-gpus {self.num_ranks}")
        if self.max_num_seqs is not None:
            flags.append(f"--generation.max-num-seqs {self.max_num_seqs}")
        if self.num_frames is not None:
            key = _frames_key(config).replace("_", "-")
            flags.append(f"--video.sampling.{key} {self.num_frames}")
        return " ".join(flags)


def remedies(config: RunConfig, pair: Pair) -> list[Remedy]:
    """The mildest change of each one setting that fits; if none does alone, of several together.

    More ranks are powers of two up to MAX_RANKS; rows and frames are halved. Together, frames go
    last: they alone change captions.
    """
    sampling, now = config.video.sampling, config.models.tensor_parallel_size
    frames = list(_halves(getattr(sampling, _frames_key(config))))
    rows = list(_halves(config.generation.max_num_seqs))
    possible = possible_ranks(pair.target)
    ranks = [n for n in (2, 4, 8, MAX_RANKS) if n > now and n in possible]
    some_ranks: Sequence[int | None] = ranks or [None]

    def first_that_fits(candidates: Iterable[Remedy]) -> list[Remedy]:
        fitting = (each for each in candidates if reckon(each.applied(config), pair).fits)
        return list(islice(fitting, 1))

    alone = [
        *first_that_fits(Remedy(num_ranks=n) for n in ranks),
        *first_that_fits(Remedy(max_num_seqs=n) for n in rows),
        *first_that_fits(Remedy(num_frames=n) for n in frames),
    ]
    return alone or first_that_fits(
        Remedy(num_ranks, max_num_seqs, num_frames)
        for num_frames, num_ranks, max_num_seqs in product(
            [None, *frames], some_ranks, [None, *rows]
        )
    )


def _halves(count: int) -> Iterator[int]:
    while count > 1:
        count //= 2
        yield count


def _frames_key(config: RunConfig) -> str:
    is_uniform = config.video.sampling.policy is SamplingPolicy.UNIFORM
    return "num_frames" if is_uniform else "max_frames"
