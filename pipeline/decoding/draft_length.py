"""Choosing how many tokens a round drafts, from what rounds cost and what their drafts bring.

The best K makes a token cheapest (docs/method.md, section 5):

    seconds of a token = round(rows, K) / (rows (1 + kept(K))) + the draft's prompt, if K > 0

where round(rows, 0) / rows is plain decoding's. K = 0 is a choice like any other, and is left again
when a trial shows that drafts pay.

The promise is "never slower than plain decoding", for each number of rows. It is kept by an
*account* of time for each number of rows, in which what a round took is set against what plain
decoding would take for the same tokens. While K = 0, plain time earns 1.5 % of itself, and a trial
of drafts is made when the account can pay for the last trial's loss. While K > 0, losses are drawn
from the account, and an empty one ends drafting until a trial has paid. Gains are credited up to a
limit. So for each number of rows, up to the error of the measured plain time,

    time <= 1.015 * plain time + max(8, 64 / rows) plain rounds

and the last term is used up once only. On top come the three drafted rounds of a process's start,
and once what a trial took beyond its estimate: that is repaid before the next one. An odd round,
slow for another reason, counts as at most half as slow again as usual.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.decoding.cost_model import AcceptanceModel, RoundCosts, clipped
from pipeline.decoding.draft_account import FIRST_CHECK, Excursion, Place, PromptCost
from pipeline.decoding.length_policy import RoundObservation

_TRIAL_SHARE = 0.015
_OUTLIER = 1.5
_ROUNDS_BETWEEN_CHOICES = 8
_ROUNDS_BETWEEN_CHECKS = 64
"""While K > 0: one plain round and one with another K in each so many rounds."""
_FIRST_LENGTH = 4
_MOST_CATCHING_UP = 4
_MIN_ROUNDS_BETWEEN_TRIALS = 12
_TRIAL_BLOCKS = 8
"""A trial drafts at least so many blocks, in two rounds or more."""
_GIVE_UP_ROUNDS = 32
"""Rounds in which nothing could be drafted (prompts are still read) before a trial is ended."""
_MARGIN = 0.03
_MARGIN_TO_PLAIN = 0.01
_FADE_PER_TRIAL = 0.3


class AdaptiveLength:
    """The K that makes a token cheapest, 0 to ``max_tokens``; implements DraftLengthPolicy.

    It begins with six rounds, of 4 tokens and of none in turn. Each number of rows (from 17 on,
    groups of them) has a choice and an account of its own; costs seen with other rows tell where to
    begin. A choice is left for one that is 3 % cheaper, for plain decoding at 1 %.
    """

    def __init__(self, max_tokens: int) -> None:
        if max_tokens < 1:
            raise ValueError(f"an adaptive length needs at least 1 token, not {max_tokens}")
        self._lengths = _candidates(max_tokens)
        self._costs = RoundCosts()
        self._acceptance = AcceptanceModel(max_tokens)
        self._prompts = PromptCost()
        self._places: dict[int, Place] = {}
        self._start = [0, min(_FIRST_LENGTH, max_tokens)] * 3  # popped from the end
        self._num_idle = 0
        self._excursion: Excursion | None = None
        self._num_undrafted = 0

    @property
    def max_tokens(self) -> int:
        """The most that is ever chosen."""
        return self._lengths[-1]

    def num_tokens(self, num_rows: int) -> int:
        """K of the next round; see DraftLengthPolicy."""
        if self._start:
            return self._start[-1]
        if self._excursion is not None:
            return self._lengths[self._excursion.choice]
        group = _group(num_rows)
        place = self._places.get(group) or self._new_place(group)
        return self._lengths[place.choice]

    def observe(self, observation: RoundObservation) -> None:
        """Learn from a round; see DraftLengthPolicy."""
        rows, asked = observation.num_rows, observation.asked
        if rows < 1:
            return
        group = _group(rows)
        num_drafting = len(observation.drafted)
        emitted = rows + sum(observation.accepted)
        self._prompts.observe(observation, emitted)
        place = None if self._start else self._place(group)
        if place is not None:
            self._book(place, observation, emitted)
        if asked:
            self._acceptance.observe(asked, observation.accepted)
        # A round is typical of its K if all rows drafted, and no draft had much to catch up on.
        if not asked or (num_drafting == rows and self._num_undrafted < _MOST_CATCHING_UP):
            self._costs.observe(group, asked, observation.round_s * group / rows)
        self._num_undrafted = 0 if num_drafting else self._num_undrafted + 1
        is_idle = asked > 0 and num_drafting == 0  # prompts are still read
        if place is None:
            self._go_on_starting(is_idle)
        elif self._excursion is not None:
            self._go_on(self._excursion, place, is_idle)
        else:
            self._decide(place)

    def _go_on_starting(self, is_idle: bool) -> None:
        self._num_idle = self._num_idle + 1 if is_idle else 0
        if not 0 < self._num_idle <= _GIVE_UP_ROUNDS:
            self._num_idle = 0
            self._start.pop()

    def _place(self, group: int) -> Place:
        if group not in self._places:
            self._places[group] = self._new_place(group)
        return self._places[group]

    def _new_place(self, group: int) -> Place:
        place = Place(group, self._look(group), choice=0, account_s=0.0)
        place.account_s = place.most_account_s / 4
        times = self._token_seconds(place)
        place.choice = _least(times)
        return place

    def _look(self, group: int) -> Sequence[float]:
        """The rounds' seconds at each candidate; all alike while no round had a time."""
        return self._costs.predict(group, self._lengths) or [0.0] * len(self._lengths)

    def _book(self, place: Place, seen: RoundObservation, emitted: int) -> None:
        """Set the round against plain decoding of the same tokens."""
        share = seen.num_rows / place.group
        plain_s = place.costs_s[0] * share
        if not seen.asked:
            place.account_s += _TRIAL_SHARE * clipped(seen.round_s, plain_s, _OUTLIER)
        else:
            expected_s = place.costs_s[self._lengths.index(seen.asked)] * share
            lost_s = clipped(seen.round_s, expected_s, _OUTLIER)
            lost_s -= plain_s * emitted / seen.num_rows
            if self._excursion is not None and self._excursion.is_trial:
                place.prompts_s += seen.prompt_s
                self._excursion.lost_s += seen.prompt_s
            else:
                lost_s += self._prompts.per_token() * emitted
            place.account_s -= lost_s
            if self._excursion is not None:
                self._excursion.lost_s += lost_s
        place.account_s = min(place.account_s, place.most_account_s)

    def _go_on(self, trip: Excursion, place: Place, is_idle: bool) -> None:
        """One round of an excursion is over."""
        if is_idle:
            trip.num_idle += 1
            if trip.num_idle <= _GIVE_UP_ROUNDS:
                return
            trip.rounds_left = 0
        trip.rounds_left -= 1
        if trip.rounds_left > 0:
            return
        self._excursion = None
        place.costs_s = self._look(place.group)
        if trip.is_trial:
            place.since_trial = 0
            place.num_rounds = 0
            place.next_check = _ROUNDS_BETWEEN_CHECKS // 2
            self._choose(place)
            if place.choice == 0:
                self._end_drafting(place, trip.lost_s)
        elif place.choice > 0:
            self._choose_again(place)

    def _decide(self, place: Place) -> None:
        """After a round of the chosen K: stay, choose again, or look elsewhere."""
        place.num_rounds += 1
        is_time = place.num_rounds % _ROUNDS_BETWEEN_CHOICES == 0
        if is_time:
            place.costs_s = self._look(place.group)
        if place.choice == 0:
            place.since_trial += 1
            if is_time and place.since_trial >= _MIN_ROUNDS_BETWEEN_TRIALS:
                self._consider_trial(place)
        elif place.account_s < 0:
            place.choice = 0
            self._end_drafting(place, self._expected_loss(place))
        elif place.num_rounds >= place.next_check:
            self._check(place)
        elif is_time:
            self._choose_again(place)

    def _choose(self, place: Place) -> None:
        """The best K, if it is better than the present one by the margin."""
        times = self._token_seconds(place)
        best = _least(times)
        margin = _MARGIN if best else _MARGIN_TO_PLAIN
        if times[best] < times[place.choice] * (1 - margin):
            place.choice = best

    def _choose_again(self, place: Place) -> None:
        self._choose(place)
        if place.choice == 0:
            self._end_drafting(place, self._expected_loss(place))

    def _end_drafting(self, place: Place, trial_loss_s: float) -> None:
        """Plain decoding from now on, until a trial shows that drafts pay."""
        place.account_s -= place.prompts_s
        place.prompts_s = 0.0
        place.trial_loss_s = max(trial_loss_s, 0.0)
        place.since_trial = 0

    def _check(self, place: Place) -> None:
        """One round elsewhere, in turn plain and with twice or half the tokens."""
        double = min(2 * place.choice, len(self._lengths) - 1)
        choice = (0, double, 0, (place.choice + 1) // 2)[place.num_checks % 4]
        place.num_checks += 1
        # Soon at first, so that a wrong choice for new rows is found; then rarely.
        gap = min(FIRST_CHECK * 2 ** min(place.num_checks, 6), _ROUNDS_BETWEEN_CHECKS) // 2
        place.next_check = place.num_rounds + gap
        if choice != place.choice:
            self._excursion = Excursion(choice)

    def _consider_trial(self, place: Place) -> None:
        """A trial at the K above 0 that is nearest to paying, if the account can bear it."""
        if place.account_s < min(place.trial_loss_s, place.most_account_s):
            return
        self._acceptance.fade(_FADE_PER_TRIAL)
        choice = 1 + _least(self._token_seconds(place)[1:])
        self._excursion = Excursion(choice, _trial_rounds(place.group), is_trial=True)

    def _expected_loss(self, place: Place) -> float:
        """Of a trial, by what is known."""
        times = self._token_seconds(place)
        best = 1 + _least(times[1:])
        plain_s = place.costs_s[best] * times[0] / times[best] if times[best] > 0 else 0.0
        return (place.costs_s[best] - plain_s) * _trial_rounds(place.group)

    def _token_seconds(self, place: Place) -> list[float]:
        """Seconds of a token at each candidate K."""
        kept = self._acceptance.expected()
        prompt_s = self._prompts.per_token()
        return [
            cost_s / (place.group * (1 + kept[k])) + (prompt_s if k else 0.0)
            for k, cost_s in zip(self._lengths, place.costs_s)
        ]


def _least(values: Sequence[float]) -> int:
    return min(range(len(values)), key=values.__getitem__)


def _candidates(max_tokens: int) -> tuple[int, ...]:
    """0 to 12 by one, then about a fifth apart, and ``max_tokens``."""
    lengths = list(range(min(max_tokens, 12) + 1))
    while lengths[-1] < max_tokens:
        lengths.append(min(lengths[-1] + lengths[-1] // 5, max_tokens))
    return tuple(lengths)


def _group(num_rows: int) -> int:
    """Numbers of rows that share what is learnt: each of its own up to 16, then by 4, by 16.

    No rows are asked about too, when nothing runs yet: as if one did.
    """
    if num_rows <= 16:
        return max(num_rows, 1)
    step = 4 if num_rows <= 64 else 16
    return -(-num_rows // step) * step


def _trial_rounds(group: int) -> int:
    """Two at least: the first one's draft may have much to catch up on."""
    return max(2, -(-_TRIAL_BLOCKS // group))
