"""Guards teacher forcing: what a model says after each token of a given caption."""

from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calibration.reading import (
    TargetCaption,
    longest_caption,
    open_reader,
    opened,
)
from pipeline.decoding.session import NO_TAPS, SlotError, Taps
from pipeline.models.scripted import Script, ScriptedVideoLM, scripted_prompt
from tests.unit.calibration.planted import clip_request, said

SCRIPT = Script(seed=2, min_length=8)
MODEL = ScriptedVideoLM(SCRIPT)
PROMPT, OTHER = scripted_prompt([5, 6, 7], 2), scripted_prompt([8, 9], 9)
texts = st.lists(st.integers(2, 31), min_size=1, max_size=12)


def choices(output):
    return output.logits[0].argmax(-1).tolist()


def scripted(prompt, tokens, after=()):
    """What the script says after each of the tokens."""
    ids = prompt.token_ids.tolist()
    return [
        SCRIPT.next_token(ids, [*after, *tokens[:count]]) for count in range(1, len(tokens) + 1)
    ]


def reader_session(**kwargs):
    return open_reader(MODEL, [PROMPT, OTHER], 12, **kwargs)


@given(texts=st.lists(texts, min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_captions_read_one_after_the_other_do_not_see_each_other(texts):
    with opened(reader_session(), PROMPT) as reader:
        for tokens in texts:
            assert choices(reader.read(tokens)) == scripted(PROMPT, tokens)


@given(tokens=texts, rest=texts, data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_beginning_is_kept_and_read_on_from(tokens, rest, data):
    """Not more of it than asked, and not less."""
    after = data.draw(st.integers(0, len(tokens)))
    rest = rest[: 12 - after]
    if not rest:
        return
    with opened(reader_session(), PROMPT) as reader:
        reader.read(tokens)
        assert choices(reader.read(rest, after=after)) == scripted(PROMPT, rest, tokens[:after])
        assert choices(reader.read(tokens)) == scripted(PROMPT, tokens)


def test_more_than_was_read_can_not_be_kept():
    with opened(reader_session(), PROMPT) as reader:
        reader.read([4, 5])
        with pytest.raises(SlotError):
            reader.read([6], after=3)


def test_the_first_token_comes_with_the_prompt():
    with opened(reader_session(), PROMPT) as reader:
        assert reader.prefill.logits.argmax().item() == said(SCRIPT, PROMPT, 1)[0]


def test_a_caption_of_the_model_is_its_own_greedy_choice():
    tokens = said(SCRIPT, PROMPT, 100)
    session = open_reader(MODEL, [PROMPT], len(tokens))
    with opened(session, PROMPT) as reader:
        assert choices(reader.read(tokens[:-1])) == list(tokens[1:])


def test_prompts_follow_each_other_in_one_slot():
    session = reader_session()
    for prompt in (PROMPT, OTHER, PROMPT):
        with opened(session, prompt) as reader:
            assert choices(reader.read([4, 5])) == scripted(prompt, [4, 5])
    assert session.cached_length(0) == 0


def test_prompts_lie_side_by_side_in_slots():
    session = reader_session(num_slots=2)
    with opened(session, PROMPT, slot=1) as one, opened(session, OTHER) as other:
        assert choices(one.read([4, 5])) == scripted(PROMPT, [4, 5])
        assert choices(other.read([6])) == scripted(OTHER, [6])
        assert choices(one.read([7], after=2)) == scripted(PROMPT, [7], [4, 5])
        assert session.cached_length(1) == PROMPT.num_tokens + 3


def test_the_slot_is_free_again_after_an_error():
    session = reader_session()
    with pytest.raises(RuntimeError, match="interrupted"), opened(session, PROMPT):
        raise RuntimeError("interrupted")
    with opened(session, OTHER) as reader:
        assert choices(reader.read([4])) == scripted(OTHER, [4])


@pytest.mark.parametrize("order", [[PROMPT, OTHER], [OTHER, PROMPT]])
def test_there_is_room_for_the_longest_prompt_and_caption(order):
    session = open_reader(MODEL, order, 12, num_slots=3)
    assert session.num_slots == 3
    assert session.max_length >= OTHER.num_tokens + 12
    with opened(session, OTHER, slot=2) as reader:
        reader.read([4] * 12)


@pytest.mark.parametrize("taps", [NO_TAPS, Taps(states_layer=1), Taps(attention_layer=2)])
def test_what_is_tapped_is_what_was_asked(taps):
    with opened(reader_session(taps=taps), PROMPT) as reader:
        output = reader.read([4, 5])
        found = (output.states is not None, output.visual_attention is not None)
    assert found == tuple(layer is not None for layer in astuple(taps))


def test_the_longest_caption_is_counted_with_its_end():
    captions = [TargetCaption(clip_request(i), tokens) for i, tokens in enumerate([(4, 0), (5,)])]
    assert longest_caption(captions) == longest_caption(captions[::-1]) == 2
