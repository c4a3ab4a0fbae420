"""Drafts by a model: the small one, or the target itself on a pruned video.

Shapes: B rows that draft, K drafted tokens of a row, V vocabulary, M visual tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from pipeline.decoding.proposer import NO_PROPOSAL, Proposal
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.sampling import probabilities, seeded_generator
from pipeline.decoding.session import DecodeSession, ModelInputs, PrefillOutput

DraftPrompt = Callable[[CaptionRequest, PrefillOutput], ModelInputs]
"""What the drafting model reads of a request; the target's prefill may say which video tokens."""


@dataclass(slots=True, eq=False)
class _Draft:
    """One row: its prompt until it is being read, and what the session caches after the prompt.

    The first ``num_agreed`` cached tokens are known to be committed. The prompt is dropped when
    the session has it: it holds the video.
    """

    prompt: ModelInputs | None
    generator: torch.Generator
    is_in_session: bool = False
    cached: list[int] = field(default_factory=list)
    num_agreed: int = 0


class ModelProposer:
    """Drafts rows in lockstep, one forward a position; implements Proposer.

    A row leaves the lockstep when it has drafted as many tokens as wanted or an end of sequence,
    or a token of which the model's own probability is below ``confidence_threshold`` (that token
    is still proposed: it is paid for). If ``doubted_ids`` are given only those tokens stop it: a
    loose rule lets fillers pass that the draft was not sure of. At a ``temperature`` tokens are
    drawn, by a generator of each row's own, so that a row's draft does not depend on its
    neighbours.

    Slots are those of the target; they must be free in ``session`` too.
    """

    def __init__(
        self,
        session: DecodeSession,
        draft_prompt: DraftPrompt,
        eos_token_ids: frozenset[int],
        *,
        confidence_threshold: float = 0.0,
        doubted_ids: frozenset[int] | None = None,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._session = session
        self._draft_prompt = draft_prompt
        self._eos_token_ids = eos_token_ids
        self._confidence_threshold = confidence_threshold
        self._doubted_ids = doubted_ids
        self._temperature = temperature
        self._seed = seed
        self._drafts: dict[int, _Draft] = {}

    def admit(self, slot: int, request: CaptionRequest, prefill: PrefillOutput) -> None:
        """Take a row; see Proposer. Raises ValueError if the request has no draft inputs."""
        # Not the stream of the rule's own draws, which must be independent of the draft.
        generator = seeded_generator(self._seed, f"draft {request.clip_id}")
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
        drawn_from: list[list[torch.Tensor]] = [[] for _ in slots]
        pending = {place: self._catch_up(slots[place], committed[place]) for place in places}
        while places:
            fed = [pending[place] for place in places]
            logits = self._session.forward([slots[place] for place in places], fed).logits
            logits = _newest(logits, fed)
            if self._temperature > 0:
                probs = probabilities(logits, self._temperature).cpu()
                tokens = [
                    int(torch.multinomial(row, 1, generator=self._drafts[slots[place]].generator))
                    for place, row in zip(places, probs)
                ]
                for place, row in zip(places, probs):
                    drawn_from[place].append(row)
            else:
                tokens = logits.argmax(-1).tolist()
            sure = self._are_sure(logits, tokens)
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
            Proposal(block, torch.stack(rows) if rows else None) if block else NO_PROPOSAL
            for block, rows in zip(blocks, drawn_from)
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

    def _are_sure(self, logits: torch.Tensor, tokens: Sequence[int]) -> list[bool]:
        """Whether the model finds each token likely enough to go on after it; logits [B, V]."""
        sure = [True] * len(tokens)
        if self._confidence_threshold <= 0:
            return sure
        doubted = self._doubted_ids
        places = [i for i, token in enumerate(tokens) if doubted is None or token in doubted]
        if places:
            log_p = logits[places].log_softmax(-1)
            chosen = log_p[range(len(places)), [tokens[place] for place in places]]
            for place, likelihood in zip(places, chosen.exp().tolist()):
                sure[place] = likelihood >= self._confidence_threshold
        return sure


def _newest(logits: torch.Tensor, fed: Sequence[Sequence[int]]) -> torch.Tensor:
    """Of logits [B, L, V] those after each row's last fed token, [B, V]."""
    widest = logits.shape[1]
    if all(len(tokens) == widest for tokens in fed):
        return logits[:, -1]
    last = torch.tensor([len(tokens) - 1 for tokens in fed], device=logits.device)
    return logits[torch.arange(len(fed), device=logits.device), last]
