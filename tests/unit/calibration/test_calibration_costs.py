"""Guards what a round costs by K: the arithmetic, and what is timed (by a clock of the tests)."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.calibration.costs import LENGTHS, RoundCosts, measure_costs
from pipeline.calibration.reading import TargetCaption
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.session import NO_TAPS
from pipeline.models.scripted import Script, ScriptedSession, ScriptedVideoLM, scripted_prompt
from tests.unit.calibration.planted import captions_of, clip_request

COSTS = RoundCosts(draft_s=0.5, verify_s={0: 2.0, 2: 3.0, 6: 5.0})


@pytest.mark.parametrize(
    ("k", "ratio"), [(0, 1.0), (1, 1.25), (2, 1.5), (3, 1.75), (4, 2.0), (6, 2.5), (9, 2.5)]
)
def test_a_verification_is_told_in_plain_steps(k, ratio):
    """What was measured as it is, what lies between on the line, what lies beyond as the last."""
    assert COSTS.verify_ratio(k) == pytest.approx(ratio)


def test_speed_up_is_tokens_over_the_time_of_a_round():
    """4 draft steps of a quarter and a verification of two plain steps make three: 6 / 3."""
    assert COSTS.draft_ratio == 0.25
    assert COSTS.speed_up(6.0, 4) == pytest.approx(2.0)
    assert COSTS.speed_up(1.0, 0) == 1.0


@given(seconds=st.lists(st.floats(0.01, 10.0), min_size=len(LENGTHS) + 1, max_size=30))
def test_more_tokens_never_cost_less(seconds):
    """Medians that fall are noise."""
    costs = RoundCosts(0.1, dict(zip((0, *LENGTHS), seconds)))
    ratios = [costs.verify_ratio(k) for k in range(LENGTHS[-1] + 1)]
    assert ratios[0] == 1.0
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(ratios))
    assert ratios[-1] == pytest.approx(max(seconds[: len(LENGTHS) + 1]) / seconds[0])


class Clock:
    """Seconds go by only in the models; ``noise`` maps the number of a call to extra seconds."""

    def __init__(self):
        self.now = 0.0
        self.calls = []
        self.noise = {}

    def __call__(self):
        return self.now


class ClockedSession(ScriptedSession):
    """Takes ``seconds`` for the call and for each token; tells the clock what it was fed."""

    def __init__(self, clock, seconds, script, num_slots, max_length):
        super().__init__(script, num_slots, max_length)
        self._clock, self._seconds = clock, seconds

    def forward(self, slots, token_ids):
        clock = self._clock
        clock.now += self._seconds * (1 + len(token_ids[0])) + clock.noise.get(len(clock.calls), 0)
        (row,) = (self._slots[slot] for slot in slots)
        clock.calls.append((self._seconds, len(row.prompt), *row.token_ids, *token_ids[0]))
        return super().forward(slots, token_ids)


class ClockedVideoLM(ScriptedVideoLM):
    def __init__(self, script, clock, seconds):
        super().__init__(script)
        self._clock, self._seconds = clock, seconds

    def open_session(self, num_slots, max_length, taps=NO_TAPS, prefixes=None):
        return ClockedSession(self._clock, self._seconds, self._script, num_slots, max_length)


TARGET_S, DRAFT_S = 2.0, 0.25
SCRIPT = Script(min_length=26, max_length=30)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("pipeline.calibration.costs.perf_counter", clock)
    return clock


def measured(clock, lengths=(2, 5)):
    (caption,) = captions_of(SCRIPT, [clip_request(5)])
    target, draft = ClockedVideoLM(SCRIPT, clock, TARGET_S), ClockedVideoLM(SCRIPT, clock, DRAFT_S)
    return caption, measure_costs(target, draft, caption, lengths)


def test_a_plain_step_a_draft_step_and_each_block_are_timed(clock):
    """A step is one token, a block of k drafted tokens is k + 1."""
    _, costs = measured(clock)
    assert costs.verify_s == {0: 2 * TARGET_S, 2: 4 * TARGET_S, 5: 7 * TARGET_S}
    assert costs.draft_s == 2 * DRAFT_S
    assert list(measured(clock, LENGTHS)[1].verify_s) == [0, *LENGTHS]


def test_blocks_follow_the_prompt_and_draft_steps_each_other(clock):
    """Each model reads its own prompt and the caption's first tokens, and turns interleave."""
    caption, _ = measured(clock)
    target = (TARGET_S, caption.request.target.num_tokens)
    draft = (DRAFT_S, caption.request.draft.num_tokens)
    turn = [(*target, *caption.token_ids[:count]) for count in (1, 3, 6)]
    turn += [(*draft, *caption.token_ids[:count]) for count in (1, 2, 3, 4)]
    num_turns, rest = divmod(len(clock.calls), len(turn))
    assert rest == 0
    assert clock.calls == turn * num_turns


@pytest.mark.parametrize("noise_s", [100.0, -0.25])
def test_a_first_turn_and_less_than_half_of_the_others_leave_no_trace(clock, noise_s):
    """Be they slow or quick. The first turn does not count: with it, 8 would be half of all."""
    quiet = measured(clock)[1]
    calls_per_turn = 7
    clock.noise = {len(clock.calls) + call: noise_s for call in range(8 * calls_per_turn)}
    assert measured(clock)[1] == quiet


def test_blocks_longer_than_the_caption_are_left_out_and_none_at_all_is_an_error():
    """With a prompt of the draft that is much longer than the target's."""
    model = ScriptedVideoLM(SCRIPT)
    request = CaptionRequest("clip 5", scripted_prompt([5]), scripted_prompt([5], 50))
    tokens = captions_of(SCRIPT, [request])[0].token_ids
    longest = measure_costs(model, model, TargetCaption(request, tokens[:7]), (4, 6))
    assert list(longest.verify_s) == [0, 4, 6]
    shorter = measure_costs(model, model, TargetCaption(request, tokens[:6]), (4, 6))
    assert list(shorter.verify_s) == [0, 4]
    with pytest.raises(ValueError, match="clip 5: not 5 tokens"):
        measure_costs(model, model, TargetCaption(request, tokens[:4]), (4, 6))


def test_no_draft_inputs_are_an_error():
    model = ScriptedVideoLM(SCRIPT)
    request = CaptionRequest("alone", scripted_prompt([5]), None)
    with pytest.raises(ValueError, match=r"alone: .*no draft inputs"):
        measure_costs(model, model, TargetCaption(request, (4,) * 20), (2, 6))
