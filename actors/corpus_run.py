"""A run on a Ray cluster: a written plan in, outcomes streamed back to the driver."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import ray.data
from ray.exceptions import RayActorError, RayTaskError

from actors import wire
from actors.attempt_ledger import RemoteLedger
from actors.captioner import Captioner
from actors.errors import WorkerError
from actors.gang_captioner import GangCaptioner
from actors.video_decoder import VideoDecoder
from pipeline.config import RunConfig
from pipeline.dataset.plan_parts import WrittenPlan
from pipeline.records import CaptionerTiming, Outcome
from pipeline.stages.batching import calls_in_flight, clips_per_call

MAX_BLOCKS = 4096
"""Videos are dealt out in about this many blocks at most, one a block while that is affordable: a
block's clips go on to the captioners together, when the last of them is decoded. A block says which
rows of the plan it means; a decode actor reads them, so the driver holds no videos."""


def caption_on_ray(config: RunConfig, plan: WrittenPlan) -> Iterator[Outcome | CaptionerTiming]:
    """Stream outcomes as they come, in no particular order.

    Ray restarts a worker that dies and runs its rows again, without end, so an outcome can come
    twice (the committer drops the second), and the ledger of attempts ends it for a clip that
    captioners die of. An exception in a stage is raised here, as the local runner would.
    Raises WorkerError if an actor can't start, or can't read the plan where the output is.
    """
    cluster = config.cluster
    is_gang = config.models.tensor_parallel_size > 1
    _configure_ray_data()
    ledger = RemoteLedger.start(config.failures.max_attempts)
    dataset = (
        ray.data.from_arrow([wire.pack([rows]) for rows in plan.slices(MAX_BLOCKS)])
        .map_batches(
            VideoDecoder,
            fn_constructor_args=(config,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=cluster.num_decoders),
            num_cpus=cluster.decoder_cpus,
        )
        .map_batches(
            GangCaptioner if is_gang else Captioner,
            fn_constructor_args=(config, ledger),
            batch_size=clips_per_call(config),
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                min_size=cluster.num_captioners,
                max_size=cluster.max_captioners or cluster.num_captioners,
                max_tasks_in_flight_per_actor=calls_in_flight(config),
            ),
            # Of a gang the ranks take the CPUs and GPUs, in a placement group of their own.
            num_cpus=0 if is_gang else cluster.captioner_cpus,
            num_gpus=None if is_gang else cluster.captioner_gpus or None,
        )
    )
    try:
        # A block is one call's output here: it reaches the committer as soon as it exists.
        for table in dataset.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            yield from wire.unpack(table)
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
    except RayActorError as error:
        raise WorkerError(f"a worker died: {str(error).strip().splitlines()[-1]}") from error


def _configure_ray_data() -> None:
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = False
    context.raise_original_map_exception = True  # wrapped, it would lose its type on the way
    # Downloading a 72B, or waiting for a GPU node, takes longer than any guess of ours.
    context.execution_no_progress_timeout_s = -1
    # The run prints its own progress, readable in a log, and raises what Ray Data would log.
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
