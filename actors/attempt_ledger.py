"""The ledger of attempts as a Ray actor: one for a run, asked by all its captioners."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.stages.attempts import Admission, AttemptLedger


class RemoteLedger:
    """Implements Ledger on the actor; travels to captioners. Calls arrive in the order made.

    Beginning is waited for, ending is not: a captioner that dies right after it only makes its
    clips suspects, which is harmless.
    """

    def __init__(self, actor: ActorHandle[Any]) -> None:
        self._actor = actor

    @classmethod
    def start(cls, max_attempts: int) -> RemoteLedger:
        """A new ledger on this process's node, which is the last that a run loses.

        It ends with the job. One that died starts anew and empty: counting begins again.
        """
        here = ray.get_runtime_context().get_node_id()
        actor = (
            ray.remote(AttemptLedger)
            .options(
                name=f"attempt_ledger_{secrets.token_hex(4)}",
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True),
            )
            .remote(max_attempts)
        )
        return cls(actor)

    def begin_call(self, clip_ids: Sequence[str]) -> Admission:
        """See AttemptLedger."""
        admission: Admission = ray.get(self._actor.begin_call.remote(tuple(clip_ids)))
        return admission

    def begin(self, clip_ids: Sequence[str]) -> None:
        """See AttemptLedger."""
        ray.get(self._actor.begin.remote(tuple(clip_ids)))

    def end(self, clip_ids: Sequence[str]) -> None:
        """See AttemptLedger."""
        self._actor.end.remote(tuple(clip_ids))
