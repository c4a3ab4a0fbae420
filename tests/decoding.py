"""Decoding a list of requests in one in-flight batch, as the tests of rules and models need it."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.decoding.acceptance import RowRule, exact_rule
from pipeline.decoding.inflight import InFlightBatch
from pipeline.decoding.length_policy import FixedLength
from pipeline.decoding.model_proposer import ModelProposer
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import DecodedRow, DecodingJob, StopRule
from pipeline.decoding.session import DecodeSession, ModelInputs, PrefillOutput


def draft_inputs(request: CaptionRequest, prefill: PrefillOutput) -> ModelInputs:
    """The draft's own prompt, unpruned."""
    assert request.draft is not None
    return request.draft


def in_flight(
    target: DecodeSession,
    draft: DecodeSession | None,
    stop: StopRule,
    num_speculative_tokens: int = 0,
    max_num_batched_tokens: int = 2048,
) -> InFlightBatch:
    """A batch on the target, with a drafting model if there is one."""
    if draft is None:
        return InFlightBatch(target, stop, max_num_batched_tokens=max_num_batched_tokens)
    return InFlightBatch(
        target,
        stop,
        max_num_batched_tokens=max_num_batched_tokens,
        proposer=ModelProposer(draft, draft_inputs, stop.eos_token_ids),
        lengths=FixedLength(num_speculative_tokens),
    )


def decode(
    batch: InFlightBatch, requests: Sequence[CaptionRequest], rule: RowRule = exact_rule
) -> list[DecodedRow]:
    """The rows of the requests, in order."""
    jobs = [DecodingJob(request, rule) for request in requests]
    rows = dict(batch.decode(jobs))
    return [rows[job] for job in jobs]


def decode_plainly(
    session: DecodeSession, prompts: Sequence[ModelInputs], stop: StopRule
) -> list[DecodedRow]:
    """The target's own captions of prompts, in order."""
    requests = [CaptionRequest(str(n), prompt, None) for n, prompt in enumerate(prompts)]
    return decode(in_flight(session, None, stop), requests)
