"""The engine of an endpoint: rows that come and go for as long as it lives.

It is the in-flight batch of the job on the same sessions; what differs is that requests come one by
one, each with its own temperature, seed and limits, and are heard while they decode.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config import GenerationConfig, SpeculationConfig
from pipeline.decoding.inflight import InFlightBatch
from pipeline.decoding.kv_budget import PromptTooLongError
from pipeline.decoding.method import DecodingMethod
from pipeline.decoding.prefix_cache import PrefixCache
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodingJob, StopRule
from pipeline.decoding.sessions import DecodingModel
from pipeline.serving.answer import Answer
from pipeline.serving.inbox import Inbox


class LiveEngine:
    """Answers what an inbox holds until it is closed. Of one thread, but for ``refusal``.

    Every answer equals the one that its request would get alone, as far as InFlightBatch promises
    it. A request that needs longer slots than there are waits until the rows before it have ended:
    the sessions are then opened anew. Shadows of the fidelity budget are the nightly job's.
    """

    def __init__(
        self,
        target: DecodingModel,
        draft: DecodingModel | None,
        generation: GenerationConfig,
        speculation: SpeculationConfig,
        prefix_cache_bytes: int = 0,
    ) -> None:
        """Raises ValueError as DecodingMethod does."""
        self._method = DecodingMethod(target, draft, generation, speculation)
        self._sessions = self._method.sessions(target, prefix_cache_bytes)
        self._eos_token_ids = target.eos_token_ids
        self._generation = generation

    @property
    def prefixes(self) -> PrefixCache | None:
        """Read prompts of videos, of the target."""
        return self._sessions.prefixes

    def refusal(self, request: CaptionRequest) -> PromptTooLongError | None:
        """Why the request can't be decoded at all, None if it can."""
        return self._sessions.refusal(request)

    def run(self, inbox: Inbox[Answer]) -> None:
        """Answer until the inbox is closed and empty. Raises the models' errors: then it is over,
        and those that wait must be told."""
        batch: InFlightBatch | None = None
        while (first := inbox.wait()) is not None:
            if first.is_gone:  # before sessions are opened anew for nobody
                inbox.take()
                continue
            if not self._sessions.holds(first.request):
                batch = None  # with its sessions, before longer ones are opened
            if batch is None:
                batch = self._open(first.request)
            for job, row in batch.decode(self._jobs(inbox)):
                assert isinstance(job.listener, Answer)
                job.listener.finished(row)

    def _jobs(self, inbox: Inbox[Answer]) -> Iterator[DecodingJob | None]:
        """What waits and fits the open sessions, in order; None while there is nothing such."""
        while True:
            answer = inbox.first()
            if answer is None or not self._sessions.holds(answer.request):
                yield None
                continue
            inbox.take()
            if answer.is_gone:
                continue
            answer.started(None if answer.options.exact else self._method.rung.relaxed_share)
            yield self._job(answer)

    def _job(self, answer: Answer) -> DecodingJob:
        options = answer.options
        return DecodingJob(
            answer.request,
            self._method.rule_as(options.temperature, options.seed, options.exact),
            with_decisions=True,
            stop=StopRule(self._eos_token_ids, options.max_tokens),
            greedy=options.temperature == 0,
            listener=answer,
        )

    def _open(self, request: CaptionRequest) -> InFlightBatch:
        generation, method = self._generation, self._method
        target, draft = self._sessions.fit([request], generation.max_num_seqs)
        return InFlightBatch(
            target,
            StopRule(self._eos_token_ids, generation.max_tokens),
            max_num_batched_tokens=generation.max_num_batched_tokens,
            proposer=method.proposer(draft),
            lengths=method.lengths,
            greedy=method.greedy,
        )
