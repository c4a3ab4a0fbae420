"""Guards chunked prefill: any split of a prompt gives what one call gives, and leaves nothing."""

import gc
import weakref

import pytest
import torch

from pipeline.config import PromptConfig
from pipeline.decoding.session import SlotError, Taps
from tests.tiny_models import tiny_clip

TOKENS = [50, 61, 72]
TAPS = Taps(states_layer=1, attention_layer=2)
MAX_LENGTH = 160


@pytest.fixture(scope="module")
def prompt(pair):
    return pair.target.prepare(tiny_clip(9, seed=9), PromptConfig(text="describe this video"))


@pytest.fixture
def session(pair):
    return pair.target.open_session(3, MAX_LENGTH, TAPS)


def finish(session, slot, chunk):
    calls = 1
    while (output := session.continue_prefill(slot, chunk)) is None:
        calls += 1
    return output, calls


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 32, 33, 45, 1000])
def test_chunks_give_what_the_whole_gives(session, prompt, chunk):
    whole = session.prefill(0, prompt)
    session.start_prefill(1, prompt)
    assert session.cached_length(1) == 0
    output, calls = finish(session, 1, chunk)
    assert calls == -(-prompt.num_tokens // chunk)
    assert session.cached_length(1) == prompt.num_tokens
    assert_close(output.logits, whole.logits)
    assert_close(output.visual_states, whole.visual_states)
    assert_close(output.visual_attention, whole.visual_attention)
    scores = session.forward([0, 1], [TOKENS, TOKENS]).logits
    assert_close(scores[1], scores[0])


def test_other_rows_decode_between_chunks(session, prompt, pair):
    other = pair.target.prepare(tiny_clip(2, seed=2), PromptConfig(text="the car"))
    alone = pair.target.open_session(1, MAX_LENGTH)
    alone.prefill(0, other)
    session.prefill(2, other)
    session.start_prefill(0, prompt)
    for token in TOKENS:
        assert session.continue_prefill(0, 10) is None
        scored = session.forward([2], [[token]]).logits
        assert_close(scored, alone.forward([0], [[token]]).logits)
    output, _ = finish(session, 0, 10)
    assert_close(output.logits, pair.target.open_session(1, MAX_LENGTH).prefill(0, prompt).logits)


def test_release_in_the_middle_frees_everything(session, prompt):
    session.start_prefill(1, prompt)
    assert session.continue_prefill(1, 20) is None
    embeddings = weakref.ref(session._prefills[1].embeddings)
    gc.disable()
    try:
        session.release(1)
        assert embeddings() is None
    finally:
        gc.enable()
    with pytest.raises(SlotError, match="no prefill"):
        session.continue_prefill(1, 20)
    first = session.prefill(1, prompt)
    assert_close(first.logits, session.prefill(0, prompt).logits)


def test_the_embeddings_go_with_the_last_chunk(session, prompt):
    session.start_prefill(1, prompt)
    embeddings = weakref.ref(session._prefills[1].embeddings)
    gc.disable()
    try:
        finish(session, 1, 50)
        assert embeddings() is None
    finally:
        gc.enable()


def test_a_prompt_half_cached_is_not_to_be_used(session, prompt):
    session.start_prefill(1, prompt)
    for _ in range(2):
        with pytest.raises(SlotError, match="not cached yet"):
            session.forward([1], [TOKENS])
        with pytest.raises(SlotError, match="roll back"):
            session.roll_back(1, 1)
        with pytest.raises(SlotError, match="taken"):
            session.start_prefill(1, prompt)
        assert session.continue_prefill(1, 5) is None
    with pytest.raises(SlotError, match="a chunk of 0"):
        session.continue_prefill(1, 0)


def test_nothing_continues_that_was_not_started(session, prompt):
    with pytest.raises(SlotError, match="no prefill"):
        session.continue_prefill(0, 5)
    session.prefill(0, prompt)
    with pytest.raises(SlotError, match="no prefill"):
        session.continue_prefill(0, 5)
