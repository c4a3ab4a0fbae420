"""Plain greedy decoding of several rows in lockstep: the baseline, and the oracle of exactness."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from pipeline.decoding.acceptance import Acceptance, accept_exact
from pipeline.decoding.row import DecodedRow, Row, StopRule, unfinished
from pipeline.decoding.session import DecodeSession, ModelInputs
from pipeline.decoding.stats import Round

_NO_DRAFT = Round(num_drafted=0, acceptance=Acceptance((), None), target_token=True)


def decode_autoregressively(
    session: DecodeSession, prompts: Sequence[ModelInputs], stop: StopRule
) -> list[DecodedRow]:
    """Decode each prompt greedily, one token a step; a row that ends leaves at once.

    Every row equals its solo run. Slots 0 .. B - 1 must be free, and are free again afterwards,
    also after an error.
    """
    rows: list[Row] = []
    try:
        for slot, prompt in enumerate(prompts):
            rows.append(_prefill(session, slot, prompt, stop))
        while active := unfinished(rows):
            _step(session, active)
    finally:
        for row in rows:
            session.release(row.slot)
    return [row.finished(max_drafted=0) for row in rows]


def _prefill(session: DecodeSession, slot: int, prompt: ModelInputs, stop: StopRule) -> Row:
    started = perf_counter()
    first = int(session.prefill(slot, prompt).logits.argmax())
    row = Row(slot, prompt, stop, accept_exact, [first])
    row.seconds.prefill_s = perf_counter() - started
    return row


def _step(session: DecodeSession, rows: Sequence[Row]) -> None:
    started = perf_counter()
    output = session.forward([row.slot for row in rows], [row.token_ids[-1:] for row in rows])
    tokens = output.logits[:, 0].argmax(-1).tolist()
    share_s = (perf_counter() - started) / len(rows)
    for row, token in zip(rows, tokens):
        row.append(_NO_DRAFT, [token])
        row.seconds.verify_s += share_s
        row.seconds.decode_s += share_s
