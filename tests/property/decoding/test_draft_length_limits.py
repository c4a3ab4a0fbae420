"""Guards the adaptive length against whatever it may be told: it stays within its limits."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decoding.draft_length import AdaptiveLength
from pipeline.decoding.length_policy import RoundObservation

SECONDS = st.one_of(st.just(0.0), st.floats(0, 1e3), st.floats(0, 1e-9))


@st.composite
def rounds(draw):
    """Of some rows: which of them draft, what is kept, and how long it takes."""
    num_rows = draw(st.integers(1, 70))
    kept = draw(st.lists(st.floats(0, 1), max_size=num_rows))
    times = draw(st.tuples(SECONDS, SECONDS, SECONDS, SECONDS))
    return num_rows, kept, times, draw(st.integers(0, num_rows)), draw(st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.lists(rounds(), max_size=60), st.integers(0, 100))
def test_the_length_stays_within_its_limits(max_tokens, told, other_rows):
    policy = AdaptiveLength(max_tokens)
    assert policy.max_tokens == max_tokens
    for num_rows, kept, (draft_s, verify_s, round_s, prompt_s), num_ended, num_prompts in told:
        asked = policy.num_tokens(num_rows)
        assert 0 <= asked <= max_tokens
        assert policy.num_tokens(num_rows) == asked
        assert 0 <= policy.num_tokens(other_rows) <= max_tokens
        accepted = tuple(int(share * asked) for share in kept) if asked else ()
        policy.observe(
            RoundObservation(
                num_rows,
                asked,
                tuple(asked for _ in accepted),
                accepted,
                draft_s,
                verify_s,
                round_s,
                num_ended,
                num_prompts,
                prompt_s,
            )
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.floats(1e-6, 1e3), st.floats(1e-3, 1e3))
def test_the_unit_of_time_does_not_matter(max_tokens, second, seconds_per_token):
    """A machine twice as slow in everything gets the same lengths."""

    def lengths(unit):
        policy, chosen = AdaptiveLength(max_tokens), []
        for _ in range(60):
            k = policy.num_tokens(2)
            chosen.append(k)
            kept = (k // 2, k) if k else ()
            round_s = unit * (1 + k * seconds_per_token)
            policy.observe(RoundObservation(2, k, (k,) * len(kept), kept, 0.0, round_s, round_s))
        return chosen

    power = 2.0 ** round(math.log2(second))  # exact in floating point
    assert lengths(1.0) == lengths(power)
