"""Guards the counters of a row (docs/method.md, invariant 10), whatever rounds made it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.schema import caption_row
from pipeline.dataset.verify_counters import counter_problems
from pipeline.decoding.acceptance import Acceptance, RejectionCause, TokenKind
from pipeline.decoding.stats import Round, Seconds, summarise
from tests.dataset_rows import CREATED_AT, LABELS, clip, record

K = 6


@st.composite
def rounds(draw):
    """Any round that the loop can make: a kept prefix of a block, and why it ended."""
    num_drafted = draw(st.integers(0, K))
    kinds = draw(st.lists(st.sampled_from(TokenKind), max_size=num_drafted))
    cause = draw(st.sampled_from(RejectionCause)) if len(kinds) < num_drafted else None
    num_anchors = draw(st.integers(0, num_drafted))
    return Round(num_drafted, Acceptance(tuple(kinds), cause, num_anchors), target_token=True)


@st.composite
def captions(draw):
    """Rounds of one caption; after an accepted end of sequence no target token follows."""
    made = draw(st.lists(rounds(), max_size=12))
    if made and made[-1].acceptance.num_accepted and draw(st.booleans()):
        last = made[-1]
        whole = Acceptance(last.acceptance.kinds, None, last.acceptance.num_anchors)
        made[-1] = Round(last.num_drafted, whole, target_token=False)
    return made


@given(captions())
def test_counters_add_up(made):
    stats = summarise(made, Seconds(), prompt_tokens=9, visual_tokens=4, max_drafted=K)
    emitted = 1 + sum(r.acceptance.num_accepted + r.target_token for r in made)
    exact = sum(r.acceptance.kinds.count(TokenKind.EXACT) for r in made)
    assert stats.output_tokens == emitted
    assert emitted == (
        exact
        + stats.relaxed_tokens
        + stats.shifted_tokens
        + stats.correction_tokens
        + stats.bonus_tokens
    )
    wasted = sum(r.num_drafted - r.acceptance.num_accepted for r in made)
    assert stats.drafted_tokens == stats.accepted_tokens + wasted
    rejections = sum(stats.rejected_by_cause.values())
    assert rejections == sum(r.acceptance.rejected_by is not None for r in made)
    # each target step that rejects, or has no draft, ends with a correction
    undrafted = sum(r.num_drafted == 0 for r in made)
    assert stats.correction_tokens == 1 + rejections + undrafted
    assert set(stats.rejected_by_cause) <= {str(cause) for cause in RejectionCause}
    assert len(stats.accepted_histogram) == K + 1
    if made:
        steps = stats.target_steps
        assert stats.tokens_per_target_step == stats.accepted_tokens / steps + 1
    made_record = record(clip("a"))
    counted = replace(made_record, caption=replace(made_record.caption, stats=stats))
    assert list(counter_problems(caption_row(counted, LABELS, CREATED_AT))) == []
