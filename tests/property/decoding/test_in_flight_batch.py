"""Guards in-flight batching: rows that come, go and are read in pieces equal their solo runs."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decoding.acceptance import Acceptance, RejectionCause, TokenKind, exact_rule
from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule
from pipeline.models.scripted import EOS_TOKEN_ID, Script, ScriptedSession, scripted_prompt
from tests.decoding import decode, in_flight

EOS = frozenset([EOS_TOKEN_ID])
MAX_TOKENS = 20

scripts = st.builds(
    Script,
    seed=st.integers(0, 10_000),
    vocab_size=st.integers(4, 12),
    min_length=st.integers(1, 6),
    max_length=st.integers(6, 30),
)
# Prompts of 1 to 6 ids and up to 40 visual tokens: unequal videos.
prompts = st.lists(
    st.tuples(st.lists(st.integers(2, 3), min_size=1, max_size=6), st.integers(0, 40)),
    min_size=1,
    max_size=7,
)
agreements = st.sampled_from([0.0, 0.5, 0.8, 1.0])


def loose_rule(request, prefill):
    """Keeps drafted tokens of odd ids: loose, and a function of the block alone."""

    def accept(block):
        kinds = []
        for drafted, choice in zip(block.drafted, block.choices):
            if drafted == choice:
                kinds.append(TokenKind.EXACT)
            elif drafted % 2:
                kinds.append(TokenKind.RELAXED)
            else:
                return Acceptance(tuple(kinds), RejectionCause.ANCHOR)
        return Acceptance(tuple(kinds), None)

    return accept


def decoded(script, agreement, requests, num_slots, k, chunk, rule):
    sessions = [
        ScriptedSession(s, num_slots, 46 + MAX_TOKENS)
        for s in (script, replace(script, agreement=agreement))
    ]
    rows = decode(in_flight(*sessions, StopRule(EOS, MAX_TOKENS), k, chunk), requests, rule)
    for session in sessions:
        assert [session.cached_length(slot) for slot in range(num_slots)] == [0] * num_slots
    return [
        (r.token_ids, r.finish_reason, r.stats.accepted_histogram, r.stats.drafted_tokens)
        for r in rows
    ]


@settings(max_examples=150, deadline=None)
@given(
    scripts,
    agreements,
    prompts,
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 60),
    st.sampled_from([exact_rule, loose_rule]),
    st.randoms(use_true_random=False),
)
def test_rows_in_flight_equal_their_solo_runs(
    script, agreement, texts, num_slots, k, chunk, rule, random
):
    """Fewer slots than rows: refills. Chunks of any size, in any order, early finishers too."""
    requests = []
    for n, (text, num_visual) in enumerate(texts):
        inputs = scripted_prompt(text, num_visual)
        requests.append(CaptionRequest(str(n), inputs, inputs))
    order = random.sample(range(len(requests)), len(requests))
    shuffled = [requests[i] for i in order]
    together = decoded(script, agreement, shuffled, num_slots, k, chunk, rule)
    alone = [decoded(script, agreement, [r], 1, k, 2048, rule)[0] for r in requests]
    assert together == [alone[i] for i in order]
