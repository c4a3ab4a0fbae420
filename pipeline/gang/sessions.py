"""A gang's sessions: rank 0's, whose every call is told to the others, and how these follow.

What a session computes is a TransformersSession's on every rank, on its part of the weights and its
heads' part of the cache; the sums over ranks within a layer are the stack's. So a rank that makes
the same calls in the same order has the same logits, and ranks that make them can't diverge.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count

import torch

from pipeline.decoding.prefix_cache import PrefixCache, prefix_key
from pipeline.decoding.session import (
    NO_TAPS,
    DecodeSession,
    ForwardOutput,
    ModelInputs,
    PrefillOutput,
    Taps,
)
from pipeline.gang import commands
from pipeline.gang.link import FollowerLink, LeaderLink
from pipeline.gang.state import RankDivergenceError, RankState, check_agreement

OpenLocal = Callable[[int, int, Taps, PrefixCache | None], DecodeSession]
"""Opens this rank's part of a session: number of slots, tokens of a slot, taps, prefixes."""
VisionOf = Callable[[str], Mapping[str, torch.Tensor]]
"""What the vision tower takes of the clip of this id."""


class Leader:
    """Rank 0's sessions. ``check_calls``: ranks compare their states every so many model calls."""

    def __init__(
        self, link: LeaderLink, open_local: OpenLocal, check_calls: int, timeout_s: float
    ) -> None:
        self._link = link
        self._open_local = open_local
        self._check_calls = check_calls
        self._timeout_s = timeout_s
        self._numbers = count()
        self._open: weakref.WeakValueDictionary[int, LeaderSession] = weakref.WeakValueDictionary()
        self._prefix_numbers = count()
        self._prefixes: weakref.WeakKeyDictionary[PrefixCache, int] = weakref.WeakKeyDictionary()
        self._num_calls = 0

    def open_session(
        self,
        num_slots: int,
        max_length: int,
        taps: Taps = NO_TAPS,
        prefixes: PrefixCache | None = None,
    ) -> LeaderSession:
        """A session on all ranks, each of which keeps its own heads' part of the ``prefixes``.

        As a part has the same size on all ranks, these keep and let go of the same prefixes.
        Raises LinkError, ValueError for prefixes that the others have not seen, and what a
        session's opening raises.
        """
        known = None if prefixes is None else self._number_of(prefixes)
        number, kept = next(self._numbers), tuple(self._open)
        self._link.tell(
            commands.OpenSession(
                number, kept, num_slots, max_length, taps, known, tuple(self._prefixes.values())
            )
        )
        local = self._open_local(num_slots, max_length, taps, prefixes)
        session = LeaderSession(number, local, self._link, self._called, prefixes)
        self._open[number] = session
        return session

    def end_call(self) -> None:
        """The others may return from ``follow``."""
        self._link.tell(commands.EndCall())

    def _number_of(self, prefixes: PrefixCache) -> int:
        """What the others know this cache by."""
        if prefixes not in self._prefixes:
            if prefixes.num_queries:
                raise ValueError("a gang's prefix cache has to be new when its first session opens")
            number = next(self._prefix_numbers)
            self._link.tell(commands.AddPrefixCache(number, prefixes))
            self._prefixes[prefixes] = number
        return self._prefixes[prefixes]

    def _called(self, session: LeaderSession, logits: torch.Tensor) -> None:
        """Count a call of the model; compare when it is time. Raises RankDivergenceError."""
        self._num_calls += 1
        if self._num_calls % self._check_calls == 0:
            self._link.tell(commands.Compare())
            state = RankState.of(self._num_calls, _lengths(session), logits)
            check_agreement(state, self._link.hear(self._timeout_s))


class LeaderSession:
    """Implements DecodeSession on all ranks of a gang; see there for the contract."""

    def __init__(
        self,
        number: int,
        local: DecodeSession,
        link: LeaderLink,
        called: Callable[[LeaderSession, torch.Tensor], None],
        prefixes: PrefixCache | None = None,
    ) -> None:
        self._number = number
        self._local = local
        self._link = link
        self._called = called
        self._prefixes = prefixes

    @property
    def num_slots(self) -> int:
        """Rows that can be cached at once."""
        return self._local.num_slots

    @property
    def max_length(self) -> int:
        """Tokens that one slot can hold."""
        return self._local.max_length

    @property
    def vocab_size(self) -> int:
        """V, of the tokenizer."""
        return self._local.vocab_size

    def prefill(self, slot: int, inputs: ModelInputs) -> PrefillOutput:
        """Cache a prompt in one piece; see DecodeSession."""
        self.start_prefill(slot, inputs)
        output = self.continue_prefill(slot, inputs.num_tokens)
        assert output is not None  # all tokens were asked for
        return output

    def start_prefill(self, slot: int, inputs: ModelInputs) -> None:
        """Take a slot and encode the video, which the other ranks have or are sent.

        Raises TypeError for inputs of neither kind.
        """
        if not isinstance(inputs, commands.SharedInputs | commands.CarriedInputs):
            raise TypeError(
                "a gang caches prompts of SharedInputs or CarriedInputs alone: the others need the "
                "clip"
            )
        told = inputs
        if isinstance(inputs, commands.SharedInputs) or _is_known(inputs, self._prefixes):
            told = replace(inputs, vision={})
        self._link.tell(commands.StartPrefill(self._number, slot, told))
        self._local.start_prefill(slot, inputs)

    def continue_prefill(self, slot: int, max_tokens: int) -> PrefillOutput | None:
        """Cache more of a prompt; see DecodeSession."""
        self._link.tell(commands.ContinuePrefill(self._number, slot, max_tokens))
        output = self._local.continue_prefill(slot, max_tokens)
        if output is not None:
            self._called(self, output.logits)
        return output

    def forward(self, slots: Sequence[int], token_ids: Sequence[Sequence[int]]) -> ForwardOutput:
        """Append tokens to rows and score each position; see DecodeSession."""
        ids = tuple(tuple(tokens) for tokens in token_ids)
        self._link.tell(commands.Forward(self._number, tuple(slots), ids))
        output = self._local.forward(slots, token_ids)
        self._called(self, output.logits)
        return output

    def cached_length(self, slot: int) -> int:
        """Tokens in the row's cache."""
        return self._local.cached_length(slot)

    def roll_back(self, slot: int, num_tokens: int) -> None:
        """Drop the row's newest appended tokens."""
        self._local.roll_back(slot, num_tokens)
        self._link.put_off(commands.RollBack(self._number, slot, num_tokens))

    def release(self, slot: int) -> None:
        """Free the slot."""
        self._local.release(slot)
        self._link.put_off(commands.Release(self._number, slot))


class Follower:
    """Another rank's sessions; it does what rank 0 tells."""

    def __init__(self, link: FollowerLink, open_local: OpenLocal) -> None:
        self._link = link
        self._open_local = open_local
        self._sessions: dict[int, DecodeSession] = {}
        self._prefixes: dict[int, PrefixCache] = {}
        self._prefixes_of: dict[int, PrefixCache | None] = {}
        self._num_calls = 0
        self._newest: tuple[DecodeSession, torch.Tensor] | None = None

    def follow(self, vision_of: VisionOf) -> None:
        """Do what rank 0 tells until it ends the call. Raises LinkError and the model's errors."""
        for command in self._link.commands():
            if isinstance(command, commands.EndCall):
                return
            self._do(command, vision_of)

    def _do(self, command: object, vision_of: VisionOf) -> None:
        sessions = self._sessions
        match command:
            case commands.Forward(number, slots, token_ids):
                self._called(sessions[number], sessions[number].forward(slots, token_ids))
            case commands.RollBack(number, slot, num_tokens):
                sessions[number].roll_back(slot, num_tokens)
            case commands.Release(number, slot):
                sessions[number].release(slot)
            case commands.ContinuePrefill(number, slot, max_tokens):
                output = sessions[number].continue_prefill(slot, max_tokens)
                if output is not None:
                    self._called(sessions[number], output)
            case commands.StartPrefill(number, slot, inputs):
                sessions[number].start_prefill(slot, self._seen(number, inputs, vision_of))
            case commands.AddPrefixCache(number, cache):
                self._prefixes[number] = cache
            case commands.OpenSession():
                self._newest = None
                self._close_all_but(command.kept, command.kept_prefixes)
                self._open(command)
            case commands.Compare():
                self._link.answer(self._state())
            case _:
                raise TypeError(f"no command: {command!r}")

    def _open(self, command: commands.OpenSession) -> None:
        prefixes = None if command.prefixes is None else self._prefixes[command.prefixes]
        self._sessions[command.session] = self._open_local(
            command.num_slots, command.max_length, command.taps, prefixes
        )
        self._prefixes_of[command.session] = prefixes

    def _seen(self, session: int, inputs: ModelInputs, vision_of: VisionOf) -> ModelInputs:
        """The inputs with their pixels, or without those that are not needed.

        Raises RankDivergenceError where rank 0 encodes a video that this rank would not, or the
        other way round: one of them would wait for ever.
        """
        if inputs.num_visual_tokens == 0:
            return inputs
        if isinstance(inputs, commands.SharedInputs):
            return replace(inputs, vision=vision_of(inputs.clip_id))
        if _is_known(inputs, self._prefixes_of[session]) == bool(inputs.vision):
            raise RankDivergenceError("this rank and rank 0 have not read the same videos")
        return inputs

    def _called(self, session: DecodeSession, output: ForwardOutput | PrefillOutput) -> None:
        self._num_calls += 1
        self._newest = session, output.logits

    def _close_all_but(self, kept: Iterable[int], kept_prefixes: Iterable[int]) -> None:
        self._sessions = {n: s for n, s in self._sessions.items() if n in kept}
        self._prefixes_of = {n: p for n, p in self._prefixes_of.items() if n in kept}
        self._prefixes = {n: p for n, p in self._prefixes.items() if n in kept_prefixes}

    def _state(self) -> RankState:
        if self._newest is None:
            return RankState.of(self._num_calls, [], None)
        session, logits = self._newest
        return RankState.of(self._num_calls, _lengths(session), logits)


def _is_known(inputs: ModelInputs, prefixes: PrefixCache | None) -> bool:
    """Whether the session will read the prompt's prefix from its cache, and so no pixels."""
    key = None if prefixes is None else prefix_key(inputs)
    return prefixes is not None and key is not None and key in prefixes


def _lengths(session: LeaderSession | DecodeSession) -> list[int]:
    return [session.cached_length(slot) for slot in range(session.num_slots)]
