"""Drafts by a model: the small one, or the target itself on a pruned video.

Shapes: B rows that draft, K drafted tokens of a row, V vocabulary, M visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from pipeline.decoding.proposer import NO_PROPOSAL, Proposal
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import DecodeSession, ModelInputs, PrefillOutput

DraftPrompt = Callable[[CaptionRequest, PrefillOutput], ModelInputs]
"""What the drafting model reads of a request; the target's prefill may say which video tokens."""

DraftSampler = Callable[[torch.Tensor, torch.Generator], tuple[int, torch.Tensor]]
"""Draws a token from logits [V]: the token and the probabilities [V] that it was drawn from."""


@dataclass(slots=True, eq=False)
class _Draft:
    """One row: its prompt until it is being read, and what the session caches after the prompt.

    The first ``num_agreed`` cached tokens are known to be committed. The prompt is dropped when
    the session has it: it holds the video.
    """

    prompt: ModelInputs | None
    generator: torch.Generator | None
    is_in_session: bool = False
    cached: list[int] = field(default_factory=list)
    num_agreed: int = 0


class ModelProposer:
    """Drafts rows in lockstep, one forward a position; implements Proposer.

    A row leaves the lockstep when it has drafted as many tokens as wanted or an end of sequence,
    or a token of which the model's own probability is below ``confidence_threshold`` (that token
    is still proposed: it is paid for). Sampled drafts draw from a generator of each row's own, so
    a row's draft does not depend on its neighbours.

    Slots are those of the target; they must be free in ``session`` too.
    """

    def __init__(
        self,
        session: DecodeSession,
        draft_prompt: DraftPrompt,
        eos_token_ids: frozenset[int],
        *,
        confidence_threshold: float = 0.0,
        sampler: DraftSampler | None = None,
        row_generator: Callable[[CaptionRequest], torch.Generator] | None = None,
    ) -> None:
        self._session = session
        self._draft_prompt = draft_prompt
        self._eos_token_ids = eos_token_ids
        self._confidence_threshold = confidence_threshold
        self._sampler = sampler
        self._row_generator = row_generator
        self._drafts: dict[int, _Draft] = {}

    def admit(self, slot: int, request: CaptionRequest, prefill: PrefillOutput) -> None:
        """Take a row; see Proposer. Raises ValueError if the request has no draft inputs."""
        generator = self._row_generator(request) if self._row_generator else None
        self._drafts[slot] = _Draft(self._draft_prompt(request, prefill), generator)

    def read_prompt(self, slot: int, max_tokens: int) -> tuple[int, bool]:
        """Read on; see Proposer."""
        draft = self._drafts[slot]
        if draft.prompt is not None:
            self._session.start_prefill(slot, draft.prompt)
            draft.prompt = None
            draft.is_in_session = True
        before = self._session.cached_length(slot)
        output = self._session.continue_prefill(slot, max_tokens)
        return self._session.cached_length(slot) - before, output is not None

    def propose(
        self, slots: Sequence[int], committed: Sequence[Sequence[int]], wanted: Sequence[int]
    ) -> list[Proposal]:
        """Draft; see Proposer. What a draft misses, be it many tokens, is read in one forward."""
        places = [place for place, count in enumerate(wanted) if count > 0]
        blocks: list[list[int]] = [[] for _ in slots]
        probs: list[list[torch.Tensor]] = [[] for _ in slots]
        pending = {place: self._catch_up(slots[place], committed[place]) for place in places}
        while places:
            fed = [pending[place] for place in places]
            logits = self._session.forward([slots[place] for place in places], fed).logits
            logits = _newest(logits, fed)
            tokens, sure = self._choose([slots[place] for place in places], logits, probs, places)
            drafting = []
            for place, token, is_sure in zip(places, tokens, sure):
                self._drafts[slots[place]].cached.extend(pending[place])
                blocks[place].append(token)
                pending[place] = [token]
                goes_on = is_sure and token not in self._eos_token_ids
                if goes_on and len(blocks[place]) < wanted[place]:
                    drafting.append(place)
            places = drafting
        return [
            Proposal(block, torch.stack(drawn_from) if drawn_from else None)
            if block
            else NO_PROPOSAL
            for block, drawn_from in zip(blocks, probs)
        ]

    def release(self, slot: int, committed: Sequence[int]) -> None:
        """Forget the row."""
        del committed
        if self._drafts.pop(slot).is_in_session:
            self._session.release(slot)

    def _catch_up(self, slot: int, committed: Sequence[int]) -> list[int]:
        """Drop what was not committed; the committed tokens that the cache misses, at least one."""
        draft = self._drafts[slot]
        cached = draft.cached
        agreed = draft.num_agreed
        most = min(len(cached), len(committed) - 1)
        while agreed < most and cached[agreed] == committed[agreed]:
            agreed += 1
        draft.num_agreed = agreed
        if agreed < len(cached):
            self._session.roll_back(slot, len(cached) - agreed)
            del cached[agreed:]
        return list(committed[agreed:])

    def _choose(
        self,
        slots: Sequence[int],
        logits: torch.Tensor,
        probs: list[list[torch.Tensor]],
        places: Sequence[int],
    ) -> tuple[list[int], list[bool]]:
        """The rows' next tokens by logits [B, V], and whether each is likely enough to go on."""
        if self._sampler is not None:
            tokens, sure = [], []
            for place, slot, row in zip(places, slots, logits):
                generator = self._drafts[slot].generator
                assert generator is not None
                token, drawn_from = self._sampler(row, generator)
                tokens.append(token)
                probs[place].append(drawn_from)
                threshold = self._confidence_threshold
                sure.append(threshold <= 0 or float(drawn_from[token]) >= threshold)
            return tokens, sure
        if self._confidence_threshold <= 0:
            return logits.argmax(-1).tolist(), [True] * len(slots)
        likeliest, chosen = logits.softmax(-1).max(-1)
        return chosen.tolist(), (likeliest >= self._confidence_threshold).tolist()


def _newest(logits: torch.Tensor, fed: Sequence[Sequence[int]]) -> torch.Tensor:
    """Of logits [B, L, V] those after each row's last fed token, [B, V]."""
    widest = logits.shape[1]
    if all(len(tokens) == widest for tokens in fed):
        return logits[:, -1]
    last = torch.tensor([len(tokens) - 1 for tokens in fed], device=logits.device)
    return logits[torch.arange(len(fed), device=logits.device), last]
