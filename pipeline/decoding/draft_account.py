"""What adaptive draft lengths keep for a number of rows: the account, the choice, the trials.

See pipeline/decoding/draft_length.py for how they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.decoding.cost_model import RobustMean
from pipeline.decoding.length_policy import RoundObservation

FIRST_CHECK = 4
"""Rounds of a new choice before the first look elsewhere."""


@dataclass(slots=True)
class Place:
    """What is chosen for one number of rows; ``account_s`` is the account of time
    of draft_length.py's header.

    ``costs_s`` are the rounds' seconds at each candidate, when last looked at; ``choice`` is the
    place of the chosen K among the candidates. ``prompts_s`` went into the draft's prompts for the
    trial that began the drafting; it is drawn from the account when the drafting ends.
    ``trial_loss_s``: what the last trial lost, or the next one is expected to lose.
    """

    group: int
    costs_s: Sequence[float]
    choice: int
    account_s: float
    prompts_s: float = 0.0
    trial_loss_s: float = 0.0
    num_rounds: int = 0
    next_check: int = FIRST_CHECK
    num_checks: int = 0
    since_trial: int = 0

    @property
    def most_account_s(self) -> float:
        """Gains are credited up to this."""
        return most_plain_rounds(self.group) * self.costs_s[0]


@dataclass(slots=True)
class Excursion:
    """Rounds with another K than the chosen one: a check, or a trial of drafts."""

    choice: int
    rounds_left: int = 1
    is_trial: bool = False
    lost_s: float = 0.0
    num_idle: int = 0


@dataclass(slots=True)
class PromptCost:
    """The draft's prompt, spread over the tokens of a caption."""

    prompt_s: RobustMean = field(default_factory=RobustMean)
    emitted: float = 0.0
    ended: float = 0.0

    def observe(self, observation: RoundObservation, emitted: int) -> None:
        """Learn from a round, in which the rows emitted so many tokens."""
        keep = 0.999
        self.emitted = self.emitted * keep + emitted
        self.ended = self.ended * keep + observation.num_ended
        if observation.num_prompts_read:
            self.prompt_s.add(observation.prompt_s / observation.num_prompts_read)

    def per_token(self) -> float:
        """0 until a caption has ended."""
        return self.prompt_s.value * self.ended / self.emitted if self.ended >= 1 else 0.0


def most_plain_rounds(group: int) -> float:
    """The most that an account holds: one caption's worth of luck for one row, less for many."""
    return max(8.0, 64 / group)
