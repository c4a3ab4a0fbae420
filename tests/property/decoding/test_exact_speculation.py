"""Guards losslessness for any script, draft, K, batch and limits (docs/method.md, invariants)."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decoding.request import CaptionRequest
from pipeline.decoding.row import StopRule
from pipeline.models.scripted import EOS_TOKEN_ID, Script, ScriptedSession, scripted_prompt
from tests.decoding import decode, decode_plainly, in_flight

EOS = frozenset([EOS_TOKEN_ID])

scripts = st.builds(
    Script,
    seed=st.integers(0, 10_000),
    vocab_size=st.integers(4, 12),
    min_length=st.integers(1, 8),
    max_length=st.integers(8, 24),
)
prompts = st.lists(st.lists(st.integers(2, 3), min_size=1, max_size=6), min_size=1, max_size=5).map(
    lambda texts: [scripted_prompt(text) for text in texts]
)
agreements = st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0])


def speculate(script, agreement, inputs, k, max_tokens):
    """Sessions just as long as the longest row may need: one token more would raise SlotError."""
    length = max(i.num_tokens for i in inputs) + max_tokens
    sessions = [
        ScriptedSession(s, len(inputs), length)
        for s in (script, replace(script, agreement=agreement))
    ]
    batch = in_flight(*sessions, StopRule(EOS, max_tokens), k)
    rows = decode(batch, [CaptionRequest("clip", i, i) for i in inputs])
    for session in sessions:
        assert [session.cached_length(slot) for slot in range(len(inputs))] == [0] * len(inputs)
    return rows


@settings(max_examples=300, deadline=None)
@given(scripts, agreements, prompts, st.integers(1, 12), st.integers(1, 30))
def test_exact_speculation_is_plain_decoding(script, agreement, inputs, k, max_tokens):
    rows = speculate(script, agreement, inputs, k, max_tokens)
    length = max(i.num_tokens for i in inputs) + max_tokens
    session = ScriptedSession(script, len(inputs), length)
    expected = decode_plainly(session, inputs, StopRule(EOS, max_tokens))
    assert [r.token_ids for r in rows] == [r.token_ids for r in expected]
    assert [r.finish_reason for r in rows] == [r.finish_reason for r in expected]
    for row in rows:
        stats = row.stats
        assert len(row.token_ids) <= max_tokens
        assert not EOS & set(row.token_ids[:-1])
        exact = stats.accepted_tokens - stats.relaxed_tokens - stats.shifted_tokens
        emitted = exact + stats.correction_tokens + stats.bonus_tokens
        assert emitted == stats.output_tokens == len(row.token_ids)
        assert stats.accepted_tokens <= stats.drafted_tokens
        histogram = stats.accepted_histogram
        assert len(histogram) == k + 1
        assert sum(histogram) == stats.target_steps
        assert sum(a * count for a, count in enumerate(histogram)) == stats.accepted_tokens
        if agreement == 1.0:
            assert stats.accepted_tokens == stats.drafted_tokens
        if agreement == 0.0:
            assert (stats.accepted_tokens, stats.bonus_tokens) == (0, 0)
            assert stats.target_steps == stats.output_tokens - 1


@settings(max_examples=60, deadline=None)
@given(scripts, agreements, prompts, st.integers(1, 8), st.randoms(use_true_random=False))
def test_rows_do_not_know_their_neighbours(script, agreement, inputs, k, random):
    """Permuted batches and solo runs give every row the same tokens and the same counts."""

    def counted(rows):
        return [(r.token_ids, r.stats.accepted_histogram, r.stats.drafted_tokens) for r in rows]

    together = counted(speculate(script, agreement, inputs, k, 30))
    order = random.sample(range(len(inputs)), len(inputs))
    permuted = counted(speculate(script, agreement, [inputs[i] for i in order], k, 30))
    assert permuted == [together[i] for i in order]
    assert [counted(speculate(script, agreement, [i], k, 30))[0] for i in inputs] == together
