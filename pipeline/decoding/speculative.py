"""Chain speculation: a draft model proposes K tokens, the target checks them in one step.

Shapes: B rows, K drafted tokens of a row in this round, V vocabulary.

One round of one row (docs/method.md, "One round, one row"; arXiv 2604.05650):

    drafted  <- the draft, fed the tokens that its cache misses, then its own; stops at EOS
    choices  <- target(newest, drafted), greedy: K + 1 tokens, the last one the bonus
    emitted  <- the kept prefix of drafted, then choices[number kept], unless it ended in EOS
    both caches drop what was not kept

Rows of a batch keep different numbers of tokens; no row waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import torch

from pipeline.decoding.acceptance import RowRule, VerifiedBlock
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodedRow, Row, StopRule, unfinished
from pipeline.decoding.session import DecodeSession
from pipeline.decoding.stats import Round


class SpeculativeDecoder:
    """Decodes rows in lockstep with a draft; how tokens are kept is the rule's business.

    Slots 0 .. B - 1 of both sessions must be free when ``decode`` is called.
    """

    def __init__(
        self,
        target: DecodeSession,
        draft: DecodeSession,
        stop: StopRule,
        row_rule: RowRule,
        num_speculative_tokens: int,
    ) -> None:
        if target.vocab_size != draft.vocab_size:
            raise ValueError(
                f"target and draft vocabularies differ: {target.vocab_size}, {draft.vocab_size}"
            )
        self._target = target
        self._draft = draft
        self._stop = stop
        self._row_rule = row_rule
        self._num_speculative_tokens = num_speculative_tokens

    def decode(self, requests: Sequence[CaptionRequest]) -> list[DecodedRow]:
        """Decode each request; every row equals its solo run. All slots are free afterwards."""
        rows: list[Row] = []
        try:
            for slot, request in enumerate(requests):
                self.prefill(slot, request, rows)
            while active := unfinished(rows):
                self.step(active)
        finally:
            for row in rows:
                self._target.release(row.slot)
                if row.draft_prompt_tokens:
                    self._draft.release(row.slot)
        return [row.finished(self._num_speculative_tokens) for row in rows]

    def prefill(self, slot: int, request: CaptionRequest, rows: list[Row]) -> None:
        """Cache a prompt in both sessions and append its row, which holds the first token.

        The row joins ``rows`` as soon as the target holds it, so that an error in the draft's
        prefill leaves nothing behind. A row that ends with its first token needs no draft.
        """
        if request.draft is None:
            raise ValueError(f"clip {request.clip_id} has no draft inputs")
        started = perf_counter()
        prefill = self._target.prefill(slot, request.target)
        first = int(prefill.logits.argmax())
        row = Row(slot, request.target, self._stop, self._row_rule(request, prefill), [first])
        rows.append(row)
        if row.finish_reason is None:
            self._draft.prefill(slot, request.draft)
            row.draft_prompt_tokens = request.draft.num_tokens
        row.seconds.prefill_s = perf_counter() - started

    def step(self, rows: Sequence[Row]) -> None:
        """One round of every row: draft, verify, decide, roll back."""
        started = perf_counter()
        blocks = self._propose(rows)
        drafted_at = perf_counter()
        slots = [row.slot for row in rows]
        fed = [[row.token_ids[-1], *block] for row, block in zip(rows, blocks)]
        output = self._target.forward(slots, fed)
        choices = output.logits.argmax(-1).tolist()
        verified_at = perf_counter()
        for i, (row, block) in enumerate(zip(rows, blocks)):
            states = None if output.states is None else output.states[i, : len(fed[i])]
            verified = VerifiedBlock(
                block, choices[i][: len(fed[i])], output.logits[i, : len(fed[i])], states
            )
            self._conclude(row, verified)
        ended_at = perf_counter()
        for row in rows:
            row.seconds.draft_s += (drafted_at - started) / len(rows)
            row.seconds.verify_s += (verified_at - drafted_at) / len(rows)
            row.seconds.decode_s += (ended_at - started) / len(rows)

    def _propose(self, rows: Sequence[Row]) -> list[list[int]]:
        """Draft up to K tokens a row, in lockstep; rows leave at EOS or at their own limit.

        One token short of the limit is enough: the round's last token is the target's own.
        """
        wanted = [min(self._num_speculative_tokens, row.num_remaining - 1) for row in rows]
        blocks: list[list[int]] = [[] for _ in rows]
        pending = [self._missing_in_draft(row) for row in rows]
        drafting = [i for i in range(len(rows)) if wanted[i] > 0]
        while drafting:
            logits = self._draft.forward(
                [rows[i].slot for i in drafting], [pending[i] for i in drafting]
            ).logits
            last = torch.tensor([len(pending[i]) - 1 for i in drafting], device=logits.device)
            tokens = logits[torch.arange(len(drafting), device=logits.device), last].argmax(-1)
            for i, token in zip(drafting, tokens.tolist()):
                blocks[i].append(token)
                pending[i] = [token]
            drafting = [
                i
                for i in drafting
                if len(blocks[i]) < wanted[i] and blocks[i][-1] not in self._stop.eos_token_ids
            ]
        return blocks

    def _missing_in_draft(self, row: Row) -> list[int]:
        """Committed tokens that the draft has not seen: one, or two after a block kept whole."""
        return row.token_ids[self._draft.cached_length(row.slot) - row.draft_prompt_tokens :]

    def _conclude(self, row: Row, block: VerifiedBlock) -> None:
        """Decide a block, commit its tokens, and roll both caches back to what was committed."""
        acceptance = row.rule(block)
        num_accepted = acceptance.num_accepted
        emitted = list(block.drafted[:num_accepted])
        ended = bool(emitted) and emitted[-1] in self._stop.eos_token_ids
        if not ended:
            emitted.append(block.choices[num_accepted])
        row.append(Round(len(block.drafted), acceptance, target_token=not ended), emitted)
        self._target.roll_back(row.slot, 1 + len(block.drafted) - len(emitted))
        committed = row.draft_prompt_tokens + len(row.token_ids) - 1
        excess = self._draft.cached_length(row.slot) - committed
        if excess > 0:
            self._draft.roll_back(row.slot, excess)
