"""Rounds of a made-up machine: their costs and acceptance are given, and no clock is read."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from pipeline.decoding.length_policy import DraftLengthPolicy, RoundObservation


@dataclass
class Machine:
    """A target step of one row costs 1.

    A step of b rows costs 1 + row_cost (b - 1); each drafted token verified adds token_cost, and
    each draft step draft_cost times the target's step without its rows' share. A drafted token is
    kept with probability ``acceptance``; ``noise`` is the relative jitter of a round's time, and
    ``outliers`` the share of rounds that take 20 times as long.
    """

    draft_cost: float
    token_cost: float
    acceptance: float
    row_cost: float = 0.1
    noise: float = 0.0
    outliers: float = 0.0
    prompt_cost: float = 0.0

    def step(self, rows: int) -> float:
        return 1 + self.row_cost * (rows - 1)

    def round(self, rows: int, k: int) -> float:
        return self.step(rows) * (1 + self.draft_cost * k) + self.token_cost * rows * k

    def kept(self, k: int) -> float:
        return sum(self.acceptance**i for i in range(1, k + 1))

    def rate(self, rows: int, k: int) -> float:
        """Tokens per second at a fixed K."""
        return rows * (1 + self.kept(k)) / self.round(rows, k)

    def best(self, rows: int, max_tokens: int) -> float:
        return max(self.rate(rows, k) for k in range(max_tokens + 1))


@dataclass
class Run:
    """What a policy made of a machine: tokens and seconds, and the K of every round.

    Seconds are counted without outliers: those strike every policy alike.
    """

    tokens: int = 0
    seconds: float = 0.0
    lengths: list[int] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def simulate(
    policy: DraftLengthPolicy,
    machine: Machine,
    rows: int,
    num_rounds: int,
    seed: int = 0,
    mean_caption: int = 60,
) -> Run:
    """Let the policy choose ``num_rounds`` rounds."""
    rng = random.Random(seed)
    run = Run()
    unread = rows if machine.prompt_cost else 0
    for _ in range(num_rounds):
        k = policy.num_tokens(rows)
        accepted = []
        for _ in range(rows):
            kept = 0
            while kept < k and rng.random() < machine.acceptance:
                kept += 1
            accepted.append(kept)
        seconds = machine.round(rows, k) * max(0.1, rng.gauss(1, machine.noise))
        prompts, prompt_s = 0, 0.0
        if k and unread:
            prompts, prompt_s, unread = unread, unread * machine.prompt_cost, 0
        tokens = rows + sum(accepted)
        ended = sum(rng.random() < tokens / rows / mean_caption for _ in range(rows))
        if machine.prompt_cost:
            unread += ended
        run.tokens += tokens
        run.seconds += seconds + prompt_s
        run.lengths.append(k)
        slow = 20 if rng.random() < machine.outliers else 1
        policy.observe(
            RoundObservation(
                rows,
                k,
                (k,) * rows if k else (),
                tuple(accepted) if k else (),
                draft_s=0.4 * seconds,
                verify_s=0.5 * seconds,
                round_s=seconds * slow,
                num_ended=ended,
                num_prompts_read=prompts,
                prompt_s=prompt_s,
            )
        )
    return run
