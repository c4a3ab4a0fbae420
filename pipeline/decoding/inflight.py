"""The decoding loop: rows of one batch that come and go, for every method (docs/method.md, 6).

Shapes: B running rows, K drafted tokens of a row in this round, V vocabulary.

One round of all running rows:

    drafted  <- the proposer's, perhaps none (plain decoding is this loop without a proposer)
    choices  <- target(newest, drafted), greedy: K + 1 tokens of each row, the last one the bonus
    emitted  <- the kept prefix of drafted, by the row's rule, then choices[number kept], unless it
                ended in an end-of-sequence token
    the target drops what was not kept; the proposer does so when it is asked next

Rows keep different numbers of tokens and none waits for another. A row that ends leaves at once
and a waiting one takes its slot: its prompt is read in chunks between two rounds of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from time import perf_counter

from pipeline.decoding.acceptance import VerifiedBlock
from pipeline.decoding.arrival import Arrival
from pipeline.decoding.length_policy import NO_DRAFTS, DraftLengthPolicy, RoundObservation
from pipeline.decoding.proposer import NO_PROPOSAL, Proposal, Proposer
from pipeline.decoding.row import DecodedRow, DecodingJob, Row, StopRule
from pipeline.decoding.session import DecodeSession, ForwardOutput, PrefillOutput

_by_slot = attrgetter("slot")


class InFlightBatch:
    """Decodes jobs in the slots of a session; each row equals its solo run.

    Solo runs are equal as far as rules and proposers look at one row alone, and a row is drafted
    for as many tokens: with a fixed length always, with an adaptive one for lossless rules only.
    All slots of the session must be free, and are free again once ``decode`` has ended, also by
    an error or by a caller that stops listening.
    """

    def __init__(
        self,
        target: DecodeSession,
        stop: StopRule,
        *,
        max_num_batched_tokens: int,
        proposer: Proposer | None = None,
        lengths: DraftLengthPolicy = NO_DRAFTS,
        greedy: bool = True,
    ) -> None:
        self._target = target
        self._stop = stop
        self._max_num_batched_tokens = max_num_batched_tokens
        self._proposer = proposer
        self._lengths = lengths
        self._greedy = greedy
        self._free = set(range(target.num_slots))
        self._arrival: Arrival | None = None
        self._running: list[Row] = []
        self._ended: list[Row] = []
        self._draft_prompt_s = 0.0
        self._num_draft_prompts = 0

    def decode(
        self, jobs: Iterable[DecodingJob | None]
    ) -> Iterator[tuple[DecodingJob, DecodedRow]]:
        """Decode each job; yields as rows end. A job is asked for once there is a slot for it.

        None for a job says that there is none now: the source is asked again after a round, and
        this ends when no row is left. A job whose listener is gone before its first token yields
        nothing.
        """
        waiting = iter(jobs)
        try:
            while True:
                self._read_prompts(waiting)
                if self._running:
                    self._step(self._running)
                elif self._arrival is None and not self._ended:
                    return
                for row in self._ended:
                    yield row.job, row.finished(self._lengths.max_tokens)
                self._ended.clear()
        finally:
            self._release_all()

    def _read_prompts(self, waiting: Iterator[DecodingJob | None]) -> None:
        """Read prompts of waiting jobs, at most ``max_num_batched_tokens``.

        The lowest free slot is taken: neighbouring rows are cheapest to read.
        """
        budget = self._max_num_batched_tokens
        if self._arrival is not None and self._arrival.is_unwanted:
            self._abandon(self._arrival)
        while budget > 0:
            if self._arrival is None:
                job = next(waiting, None) if self._free else None
                if job is None:
                    break
                self._arrival = self._start(job)
            budget -= self._continue(self._arrival, budget)
        if self._proposer is not None and self._drafts(len(self._running)):
            for row in self._running:
                if budget <= 0:
                    break
                if not row.can_draft:  # it came while nothing was drafted
                    budget -= self._read_draft_prompt(row, budget)

    def _start(self, job: DecodingJob) -> Arrival:
        arrival = Arrival(min(self._free), job)
        started = perf_counter()
        self._target.start_prefill(arrival.slot, job.request.target)
        arrival.num_known = self._target.cached_length(arrival.slot)
        arrival.seconds.prefill_s = perf_counter() - started
        self._free.remove(arrival.slot)
        return arrival

    def _abandon(self, arrival: Arrival) -> None:
        """Free the slot of a prompt that is being read."""
        self._arrival = None
        self._target.release(arrival.slot)
        if arrival.row is not None and self._proposer is not None:
            self._proposer.release(arrival.slot, arrival.row.token_ids)
        self._free.add(arrival.slot)

    def _continue(self, arrival: Arrival, max_tokens: int) -> int:
        """Read on; a row that can decode joins the others. Returns the tokens read."""
        row = arrival.row
        if row is None:
            started = perf_counter()
            before = self._target.cached_length(arrival.slot)
            prefill = self._target.continue_prefill(arrival.slot, max_tokens)
            num_read = self._target.cached_length(arrival.slot) - before
            if prefill is not None:
                row = arrival.row = self._row(arrival, prefill)
                row.tell()
            arrival.seconds.prefill_s += perf_counter() - started
        else:
            num_read = self._read_draft_prompt(row, max_tokens)
        if row is None:
            return num_read
        if row.finish_reason is not None:
            self._arrival = None
            self._leave(row)
        elif self._proposer is None or row.can_draft or not self._drafts(len(self._running) + 1):
            self._arrival = None
            self._running = sorted([*self._running, row], key=_by_slot)
        return num_read

    def _row(self, arrival: Arrival, prefill: PrefillOutput) -> Row:
        """The row with its first token, which the prompt's last position gives."""
        request = arrival.job.request
        rule = arrival.job.row_rule(request, prefill)
        first = int(prefill.logits.argmax())
        if not self._is_greedy(arrival.job):
            chosen = rule(VerifiedBlock((), (first,), prefill.logits[None])).next_token
            first = first if chosen is None else chosen
        if self._proposer is not None:
            self._proposer.admit(arrival.slot, request, prefill)
        stop = arrival.job.stop or self._stop
        row = Row(arrival.slot, arrival.job, stop, rule, [first], arrival.seconds)
        row.num_known = arrival.num_known
        return row

    def _is_greedy(self, job: DecodingJob) -> bool:
        return self._greedy if job.greedy is None else job.greedy

    def _read_draft_prompt(self, row: Row, max_tokens: int) -> int:
        assert self._proposer is not None
        started = perf_counter()
        num_read, row.can_draft = self._proposer.read_prompt(row.slot, max_tokens)
        took_s = perf_counter() - started
        row.seconds.prefill_s += took_s
        self._draft_prompt_s += took_s
        self._num_draft_prompts += row.can_draft
        return num_read

    def _drafts(self, num_rows: int) -> bool:
        return self._lengths.num_tokens(num_rows) > 0

    def _step(self, rows: Sequence[Row]) -> None:
        """One round of the rows: draft, verify, decide, roll back."""
        started = perf_counter()
        asked = 0 if self._proposer is None else self._lengths.num_tokens(len(rows))
        wanted, proposals = self._propose(rows, asked) if asked else _nothing(len(rows))
        drafted_at = perf_counter()
        output = self._target.forward(
            [row.slot for row in rows],
            [[row.token_ids[-1], *p.token_ids] for row, p in zip(rows, proposals)],
        )
        choices = output.logits.argmax(-1).tolist()
        verified_at = perf_counter()
        for place, (row, proposal) in enumerate(zip(rows, proposals)):
            if not proposal.token_ids and self._is_greedy(row.job):
                row.append_undrafted(choices[place][0])
            else:
                self._decide(row, proposal, place, choices[place], output)
            row.tell()
        ended = [row for row in rows if row.finish_reason is not None]
        if ended:
            for row in ended:
                self._leave(row)
            self._running = [row for row in rows if row.finish_reason is None]
        ended_at = perf_counter()
        share = 1 / len(rows)
        for row in rows:
            seconds = row.seconds
            seconds.draft_s += (drafted_at - started) * share
            seconds.verify_s += (verified_at - drafted_at) * share
            seconds.decode_s += (ended_at - started) * share
        if self._proposer is not None:
            blocks = [
                (len(proposal.token_ids), row.rounds[-1].acceptance.num_accepted)
                for row, proposal, count in zip(rows, proposals, wanted)
                if count > 0
            ]
            self._lengths.observe(
                RoundObservation(
                    num_rows=len(rows),
                    asked=asked,
                    drafted=tuple(drafted for drafted, _ in blocks),
                    accepted=tuple(accepted for _, accepted in blocks),
                    draft_s=drafted_at - started,
                    verify_s=verified_at - drafted_at,
                    round_s=ended_at - started,
                    num_ended=len(ended),
                    num_prompts_read=self._num_draft_prompts,
                    prompt_s=self._draft_prompt_s,
                )
            )
            self._num_draft_prompts, self._draft_prompt_s = 0, 0.0

    def _propose(self, rows: Sequence[Row], asked: int) -> tuple[list[int], list[Proposal]]:
        """How many tokens each row wants, and its proposal.

        One token short of a row's limit is enough: the last one is the target's own.
        """
        assert self._proposer is not None
        wanted = [min(asked, row.num_remaining - 1) if row.can_draft else 0 for row in rows]
        slots = [row.slot for row in rows]
        return wanted, self._proposer.propose(slots, [row.token_ids for row in rows], wanted)

    def _decide(
        self,
        row: Row,
        proposal: Proposal,
        place: int,
        choices: Sequence[int],
        output: ForwardOutput,
    ) -> None:
        """Decide a block by the row's rule, commit it, and roll the target back to that."""
        drafted = proposal.token_ids
        fed = len(drafted) + 1
        started = perf_counter()
        block = VerifiedBlock(
            drafted,
            choices[:fed],
            output.logits[place, :fed],
            None if output.states is None else output.states[place, :fed],
            None if output.visual_attention is None else output.visual_attention[place, :fed],
            proposal.probs,
        )
        acceptance = row.rule(block)
        row.seconds.scoring_s += perf_counter() - started
        num_before = len(row.token_ids)
        row.append(drafted, block.choices, acceptance)
        excess = fed - (len(row.token_ids) - num_before)
        if excess:
            self._target.roll_back(row.slot, excess)

    def _leave(self, row: Row) -> None:
        """Free the row's slot."""
        self._ended.append(row)
        self._target.release(row.slot)
        if self._proposer is not None:
            self._proposer.release(row.slot, row.token_ids)
        self._free.add(row.slot)

    def _release_all(self) -> None:
        rows = list(self._running)
        if self._arrival is not None:
            if self._arrival.row is None:
                self._target.release(self._arrival.slot)
            else:
                rows.append(self._arrival.row)
        for row in rows:
            self._target.release(row.slot)
            if self._proposer is not None:
                self._proposer.release(row.slot, row.token_ids)
        self._arrival = None
        self._running = []
        self._ended = []
        self._free = set(range(self._target.num_slots))


def _nothing(num_rows: int) -> tuple[list[int], list[Proposal]]:
    """Of a round without drafts: what rows want, and their proposals."""
    return [0] * num_rows, [NO_PROPOSAL] * num_rows
