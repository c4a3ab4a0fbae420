"""Where the draft differs from the target on the target's own captions, and what comes of it.

A mismatch is harmful if the caption that goes on from the draft's token states other facts than the
target's own. To know, the target goes on from it greedily to the end: that is what would be said if
the token were let pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.calibration.reading import TargetCaption, longest_caption, open_reader, opened
from pipeline.decoding.row import StopRule
from pipeline.decoding.session import DecodeSession
from pipeline.decoding.sessions import DecodingModel


@dataclass(frozen=True, slots=True)
class Mismatch:
    """At ``position`` of caption ``caption`` (an index) the draft says ``drafted``.

    The first token of a caption is not drafted: position 0 is none.
    """

    caption: int
    position: int
    drafted: int
    choice: int


def find_mismatches(
    draft: DecodingModel, captions: Sequence[TargetCaption], report: Callable[[int], None]
) -> list[Mismatch]:
    """All positions where the draft's greedy choice is not the caption's token, in order.

    Raises ValueError if a request has no draft inputs.
    """
    prompts = []
    for caption in captions:
        if caption.request.draft is None:
            raise ValueError(f"clip {caption.request.clip_id} has no draft inputs")
        prompts.append(caption.request.draft)
    found = []
    session = open_reader(draft, prompts, longest_caption(captions))
    for index, (caption, prompt) in enumerate(zip(captions, prompts)):
        tokens = caption.token_ids
        with opened(session, prompt) as reader:
            guesses = reader.read(tokens[:-1]).logits[0].argmax(-1).tolist() if tokens[1:] else []
        found += [
            Mismatch(index, position, guess, token)
            for position, (guess, token) in enumerate(zip(guesses, tokens[1:]), 1)
            if guess != token
        ]
        report(index + 1)
    return found


@dataclass(slots=True, eq=False)
class _Path:
    """A slot at work on one caption: its mismatches from the last to the first."""

    caption: int
    prompt_length: int
    waiting: list[Mismatch]
    now: Mismatch | None = None
    tokens: list[int] = field(default_factory=list)


def continued(
    target: DecodingModel,
    captions: Sequence[TargetCaption],
    mismatches: Sequence[Mismatch],
    stop: StopRule,
    report: Callable[[int], None],
    num_slots: int = 8,
) -> list[tuple[int, ...]]:
    """The caption that each mismatch leads to if its drafted token is let pass, in order.

    ``mismatches`` of one caption may come in any order.
    Slots work on a caption each; the mismatches of one share its prompt and its beginning.
    """
    by_caption: dict[int, list[Mismatch]] = {}
    for mismatch in mismatches:
        by_caption.setdefault(mismatch.caption, []).append(mismatch)
    if not by_caption:
        return []
    for of_caption in by_caption.values():
        of_caption.sort(key=lambda mismatch: mismatch.position)
    prompts = [captions[index].request.target for index in by_caption]
    session = open_reader(target, prompts, stop.max_tokens, min(num_slots, len(by_caption)))
    return _Continuations(session, captions, by_caption, stop, report).run(mismatches)


class _Continuations:
    """The loop of ``continued``: each step feeds the newest token of every slot at work."""

    def __init__(
        self,
        session: DecodeSession,
        captions: Sequence[TargetCaption],
        by_caption: dict[int, list[Mismatch]],
        stop: StopRule,
        report: Callable[[int], None],
    ) -> None:
        self._session = session
        self._captions = captions
        self._waiting = deque(by_caption.items())
        self._stop = stop
        self._report = report
        self._paths: dict[int, _Path] = {}
        self._ends: dict[Mismatch, tuple[int, ...]] = {}

    def run(self, mismatches: Sequence[Mismatch]) -> list[tuple[int, ...]]:
        while True:
            for slot in range(self._session.num_slots):
                self._make_ready(slot)
            if not self._paths:
                return [self._ends[mismatch] for mismatch in mismatches]
            slots = list(self._paths)
            fed = [[self._paths[slot].tokens[-1]] for slot in slots]
            choices = self._session.forward(slots, fed).logits[:, 0].argmax(-1).tolist()
            for slot, choice in zip(slots, choices):
                self._paths[slot].tokens.append(choice)

    def _make_ready(self, slot: int) -> None:
        """Bring the slot to where its newest token is to be fed, or leave it empty."""
        while True:
            path = self._paths.get(slot)
            if path is None:
                if not self._waiting:
                    return
                path = self._paths[slot] = self._begin(slot)
            if path.now is not None:
                if self._stop.finish_reason(path.tokens) is None:
                    return
                self._ends[path.now] = tuple(path.tokens)
                self._report(len(self._ends))
                path.now = None
            if path.waiting:
                path.now = path.waiting.pop()
                before = self._captions[path.caption].token_ids[: path.now.position]
                excess = self._session.cached_length(slot) - path.prompt_length - len(before)
                self._session.roll_back(slot, excess)
                path.tokens = [*before, path.now.drafted]
            else:
                self._session.release(slot)
                del self._paths[slot]

    def _begin(self, slot: int) -> _Path:
        index, waiting = self._waiting.popleft()
        caption = self._captions[index]
        self._session.prefill(slot, caption.request.target)
        length = self._session.cached_length(slot)
        self._session.forward([slot], [caption.token_ids[: waiting[-1].position]])
        return _Path(index, length, list(waiting))
