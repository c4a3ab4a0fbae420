"""From requests to captions: one in-flight batch, and the comparisons that are made beside it.

Each caption equals the one that its clip would get alone (see InFlightBatch for what that asks of
a loose method).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from pipeline.config import GenerationConfig, SpeculationConfig
from pipeline.decoding.clip_share import Purpose, hash64, is_chosen
from pipeline.decoding.facts import FactExtractor
from pipeline.decoding.fidelity import FidelityReport
from pipeline.decoding.inflight import InFlightBatch
from pipeline.decoding.kv_budget import PromptTooLongError
from pipeline.decoding.length_policy import NO_DRAFTS
from pipeline.decoding.method import DecodingMethod
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodedRow, DecodingJob, StopRule
from pipeline.decoding.score_choice import ScoreOfRow
from pipeline.decoding.sessions import DecodingModel
from pipeline.decoding.task import Answer, Task, compare_with_exact, compare_with_plain
from pipeline.decoding.text_stream import TextStream
from pipeline.decoding.waiting import Waiting
from pipeline.records import Caption, ShadowComparison

_MAX_SET_ASIDE_ROUNDS = 4
"""Requests that wait to be compared with plain decoding, in batches of max_num_seqs."""


class CaptionEngine:
    """Captions streams of requests with one target and what proposes tokens to it.

    It keeps one session per model, so that steady work allocates nothing. Not thread-safe. Raises
    ValueError if the method needs a draft that there is not. ``token_sample_share`` is the share of
    clips (chosen by clip_id) whose captions say why each token is there. ``score_of_row`` replaces
    the configured anchor score, for scores that no recipe can name (an oracle), and ``facts`` the
    lexicon's way to tell facts, where a better one is known.
    """

    def __init__(
        self,
        target: DecodingModel,
        draft: DecodingModel | None,
        generation: GenerationConfig,
        speculation: SpeculationConfig,
        token_sample_share: float = 0.0,
        score_of_row: ScoreOfRow | None = None,
        facts: FactExtractor | None = None,
    ) -> None:
        self._method = DecodingMethod(target, draft, generation, speculation, score_of_row, facts)
        self._sessions = self._method.sessions(target)
        self._decode_text = target.decode_text
        self._stop = StopRule(target.eos_token_ids, generation.max_tokens)
        self._generation = generation
        self._speculation = speculation
        self._token_sample_share = token_sample_share

    @property
    def fidelity(self) -> FidelityReport | None:
        """What shadows showed so far, and the lambda that they led to; None of exact methods."""
        return self._method.budget.report() if self._method.budget else None

    def caption(self, requests: Sequence[CaptionRequest]) -> list[Caption]:
        """Caption the requests, in order.

        Raises PromptTooLongError for the first request that has no caption, SlotError or the
        model's errors; the engine can be used again afterwards.
        """
        captions = []
        for answer in sorted(self.caption_stream(requests), key=lambda answer: answer.index):
            if not isinstance(answer.result, Caption):
                raise answer.result
            captions.append(answer.result)
        return captions

    def caption_stream(self, requests: Iterable[CaptionRequest]) -> Iterator[Answer]:
        """Caption requests as they come; answers come as rows end, in any order.

        A request is asked for once there is a slot for it, but for the first max_num_seqs, by
        which the slots are measured; asking must not wait for long, or the running rows do too.
        A request that does not fit the memory even alone is answered with PromptTooLongError.

        Clips chosen for comparison are set aside and decode both ways in batches of their own, so
        that both ways share the machine with the same rows; which way goes first is a coin toss by
        clip_id.
        """
        tasks = (self._task(index, request) for index, request in enumerate(requests))
        aside: list[Task] = []
        while True:
            yield from self._decode_own_way(self._not_compared(tasks, aside))
            if not aside:
                return
            yield from self._decode_both_ways(aside)
            aside.clear()

    def _task(self, index: int, request: CaptionRequest) -> Task:
        share = self._speculation.fidelity.shadow_share
        is_shadowed = self._method.is_loose and is_chosen(request.clip_id, share, Purpose.SHADOW)
        return Task(index, request, is_shadowed)

    def _not_compared(self, tasks: Iterator[Task], aside: list[Task]) -> Iterator[Task]:
        """Pass tasks on, but set those aside that are compared; ends when enough are."""
        share = self._speculation.plain_share if self._method.speculates else 0.0
        for task in tasks:
            if not is_chosen(task.request.clip_id, share, Purpose.PLAIN):
                yield task
                continue
            aside.append(task)
            if len(aside) >= _MAX_SET_ASIDE_ROUNDS * self._generation.max_num_seqs:
                return

    def _decode_both_ways(self, tasks: Sequence[Task]) -> Iterator[Answer]:
        plain: dict[int, DecodedRow] = {}
        if hash64(tasks[0].request.clip_id, Purpose.PLAIN_FIRST) % 2:
            plain = self._decode_plainly(tasks)
            answers = list(self._decode_own_way(iter(tasks)))
        else:
            answers = list(self._decode_own_way(iter(tasks)))
            plain = self._decode_plainly(tasks)
        rows = {task.index: task.row for task in tasks}
        for answer in answers:
            row = rows[answer.index]
            if row is None or not isinstance(answer.result, Caption):
                yield answer
                continue
            comparison = compare_with_plain(row, plain[answer.index])
            yield replace(answer, result=replace(answer.result, plain=comparison))

    def _decode_plainly(self, tasks: Sequence[Task]) -> dict[int, DecodedRow]:
        """Rows by the tasks' index, without those that don't fit the memory."""
        fitting = [task for task in tasks if self._sessions.refusal(task.request) is None]
        rows = self._rows(iter(fitting), self._plain_jobs, drafting=False)
        return {task.index: row for task, _, row in rows}

    def _plain_jobs(self, task: Task) -> list[DecodingJob]:
        return [DecodingJob(task.request, self._method.exact_rule)]

    def _decode_own_way(self, tasks: Iterator[Task]) -> Iterator[Answer]:
        """Decode by the configured method, shadows included."""
        refused: list[Answer] = []
        for task, job, row in self._rows(self._fitting(tasks, refused), self._own_jobs):
            yield from refused
            refused.clear()
            if job.is_shadow:
                task.shadow = row
            else:
                task.row = row
            if task.row is not None and task.is_done:
                yield _answer(task.index, job.request, self._caption(task, task.row))
        yield from refused

    def _fitting(self, tasks: Iterator[Task], refused: list[Answer]) -> Iterator[Task]:
        for task in tasks:
            refusal = self._sessions.refusal(task.request)
            if refusal is None:
                yield task
            else:
                refused.append(_answer(task.index, task.request, refusal))

    def _own_jobs(self, task: Task) -> list[DecodingJob]:
        """The task's rows; asked for when there is a slot, so the lambda in force is the newest."""
        with_decisions = is_chosen(
            task.request.clip_id, self._token_sample_share, Purpose.TOKEN_SAMPLE
        )
        task.rung = self._method.rung
        task.has_shadow = task.has_shadow and not task.rung.is_exact
        rule = self._method.row_rule(task.rung)
        jobs = [DecodingJob(task.request, rule, with_decisions=with_decisions)]
        if task.has_shadow:
            jobs.append(DecodingJob(task.request, self._method.exact_rule, is_shadow=True))
        return jobs

    def _rows(
        self,
        tasks: Iterator[Task],
        jobs_of: Callable[[Task], list[DecodingJob]],
        drafting: bool = True,
    ) -> Iterator[tuple[Task, DecodingJob, DecodedRow]]:
        """Decode jobs in flight. A prompt that is too long for the open sessions lets the rows
        before it end, and goes on in longer ones."""
        task_of: dict[DecodingJob, Task] = {}

        def jobs(fitting: Iterator[Task]) -> Iterator[DecodingJob]:
            for task in fitting:
                for job in jobs_of(task):
                    task_of[job] = task
                    yield job

        waiting = Waiting(tasks)
        while waiting.look_ahead(1):
            batch = self._open(waiting, drafting)
            for job, row in batch.decode(jobs(waiting.take_while(self._is_held))):
                yield task_of.pop(job), job, row
            del batch  # with its sessions, before others are opened

    def _is_held(self, task: Task) -> bool:
        return self._sessions.holds(task.request)

    def _open(self, waiting: Waiting[Task], drafting: bool) -> InFlightBatch:
        ahead = waiting.look_ahead(self._generation.max_num_seqs)
        num_rows = sum(1 + task.has_shadow for task in ahead)
        target, draft = self._sessions.fit([task.request for task in ahead], num_rows)
        method = self._method
        return InFlightBatch(
            target,
            self._stop,
            max_num_batched_tokens=self._generation.max_num_batched_tokens,
            proposer=method.proposer(draft) if drafting else None,
            lengths=method.lengths if drafting else NO_DRAFTS,
            greedy=method.greedy,
        )

    def _caption(self, task: Task, row: DecodedRow) -> Caption:
        text = self._decode_text(row.token_ids)
        pieces = TextStream(self._decode_text).pieces(d.token_id for d in row.decisions)
        decisions = (replace(d, text=piece) for d, piece in zip(row.decisions, pieces))
        return Caption(
            text,
            row.token_ids,
            row.finish_reason,
            row.stats,
            shadow=self._compare_with_shadow(task, row),
            relaxed_share=task.rung.relaxed_share,
            decisions=tuple(decisions),
        )

    def _compare_with_shadow(self, task: Task, row: DecodedRow) -> ShadowComparison | None:
        """Compare, and let the budget know."""
        if task.shadow is None:
            return None
        kept = self._method.facts_kept(row, task.shadow)
        comparison = compare_with_exact(row, task.shadow, kept)
        if self._method.budget and kept is not None:
            self._method.budget.observe(task.rung, kept, differs=not comparison.equal)
        return comparison


def _answer(index: int, request: CaptionRequest, result: Caption | PromptTooLongError) -> Answer:
    return Answer(index, request.clip_id, request.frames_digest, result)
