"""The visual lexicon: per vocabulary entry, how much its probability hangs on the video.

The target reads its own captions after the true video, and after other clips' videos. An entry to
which both give the same probability everywhere says nothing visual; one whose probability comes
and goes with the video does. No labels, no training (docs/method.md, section 3b).

Every entry that the target thinks possible is counted where it does, not only the tokens that it
says: a draft words its fillers otherwise, and of its words a table of the target's own knows none.

Shapes: L tokens of a caption, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pipeline.calibration.reading import (
    OpenPrompt,
    TargetCaption,
    longest_caption,
    open_reader,
    opened,
)
from pipeline.decoding.calibration import Lexicon
from pipeline.decoding.sessions import DecodingModel

_STRICT_MASS = 0.2
"""So much probability, all of it video's, is added to what was seen: what is rare is strict."""
_SEEN_GAIN = 0.5
_SEEN_RECALL = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class LexiconCounts:
    """Sums over positions of captions and over wrong videos; p with the true one, q without.

    mass [V]: of max(p, q), the probability that an entry ever had; moved [V]: of
    (p - q)^2 / max(p, q), the part of it that the video moved, small changes counted less.
    occurrences [V]: how often an entry was emitted; seen [V]: how often of these the true video
    added at least half to its probability, so that it must have been seen.
    """

    mass: npt.NDArray[np.float64]
    moved: npt.NDArray[np.float64]
    occurrences: npt.NDArray[np.int64]
    seen: npt.NDArray[np.int64]

    def lexicon(self) -> Lexicon:
        """Values [V], 0 to 1: the part moved, drawn towards 1 where an entry was hardly possible.

        An entry that the target never thought of has 1: nothing is known of it, so it is strict.
        """
        value = (self.moved + _STRICT_MASS) / (self.mass + _STRICT_MASS)
        return value.astype(np.float32)

    def visual_threshold(self) -> float:
        """The highest value that all but a twentieth of the seen occurrences are above.

        1 if nothing was ever seen.
        """
        value = self.lexicon()
        order = np.argsort(-value, kind="stable")
        share = np.cumsum(self.seen[order]) / max(int(self.seen.sum()), 1)
        lowest = int(np.searchsorted(share, _SEEN_RECALL))
        if lowest == len(value):
            return 1.0
        return float(np.nextafter(value[order[lowest]], np.float32(0)))


@dataclass(slots=True, eq=False)
class _Waiting:
    """A caption [L] and the probabilities [L, V] with its own video; what that gained so far."""

    token_ids: torch.Tensor
    probability: torch.Tensor
    gains: list[torch.Tensor] = field(default_factory=list)

    def of_tokens(self, values: torch.Tensor) -> torch.Tensor:
        """Of values [L, V] those of the caption's own tokens, [L]."""
        return values.cpu().gather(-1, self.token_ids[:, None])[:, 0]


def count_moved(
    target: DecodingModel,
    captions: Sequence[TargetCaption],
    num_others: int,
    report: Callable[[int], None],
) -> LexiconCounts:
    """Read every caption with its own video and with those of ``num_others`` other clips.

    ``report`` is told how many captions are done. Raises ValueError if there are not more captions
    than other videos.
    """
    if not 0 < num_others < len(captions):
        raise ValueError(f"{len(captions)} captions: too few for {num_others} other videos each")
    size = target.vocab_size
    mass = torch.zeros(size, dtype=torch.float64)
    moved = torch.zeros(size, dtype=torch.float64)
    occurrences, seen = np.zeros(size, np.int64), np.zeros(size, np.int64)
    prompts = [caption.request.target for caption in captions]
    session = open_reader(target, prompts, longest_caption(captions))
    # Captions that were read with their own video, and how many others each still needs: those of
    # the clips that follow it, so that a prompt is cached once for all captions after it.
    waiting: dict[int, _Waiting] = {}
    for place in range(len(captions) + num_others):
        own = place % len(captions)
        with opened(session, prompts[own]) as reader:
            if place < len(captions):
                tokens = torch.tensor(captions[own].token_ids)
                waiting[own] = _Waiting(tokens, _probabilities(captions[own].token_ids, reader))
            for other, caption in list(waiting.items()):
                if other == own:
                    continue
                without = _probabilities(captions[other].token_ids, reader)
                larger = torch.maximum(caption.probability, without)
                change = (caption.probability - without).square() / larger.clamp(min=1e-12)
                mass += larger.double().sum(0).cpu() / num_others
                moved += change.double().sum(0).cpu() / num_others
                caption.gains.append(caption.of_tokens(caption.probability - without))
                if len(caption.gains) == num_others:
                    gain = torch.stack(caption.gains).mean(0)
                    np.add.at(occurrences, caption.token_ids.numpy(), 1)
                    np.add.at(seen, caption.token_ids[gain >= _SEEN_GAIN].numpy(), 1)
                    del waiting[other]
        if place >= num_others:
            report(place + 1 - num_others)
    return LexiconCounts(mass.numpy(), moved.numpy(), occurrences, seen)


def _probabilities(token_ids: Sequence[int], reader: OpenPrompt) -> torch.Tensor:
    """Of all entries at each position of a caption, [L, V]."""
    rest = reader.read(token_ids[:-1]).logits[0] if len(token_ids) > 1 else None
    first = reader.prefill.logits[None]
    logits = first if rest is None else torch.cat([first, rest])
    return logits.float().softmax(-1)
