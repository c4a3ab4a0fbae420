"""Guards the fake that other tests stand on: deterministic, and strict about misuse."""

from dataclasses import replace

import pytest

from pipeline.config import PromptConfig
from pipeline.decoding.session import SlotError, Taps
from pipeline.models.scripted import (
    EOS_TOKEN_ID,
    Script,
    ScriptedSession,
    ScriptedVideoLM,
    scripted_prompt,
)
from tests.tiny_models import tiny_clip

PROMPT = [5, 6, 7]


def say(script, prompt=PROMPT, max_tokens=100):
    token_ids = []
    while EOS_TOKEN_ID not in token_ids and len(token_ids) < max_tokens:
        token_ids.append(script.next_token(prompt, token_ids))
    return token_ids


@pytest.mark.parametrize("prompt", [[5], [6], [7, 8]])
def test_captions_are_deterministic_and_within_the_lengths(prompt):
    script = Script(min_length=4, max_length=9)
    assert say(script, prompt) == say(Script(min_length=4, max_length=9), prompt)
    assert 4 <= len(say(script, prompt)) <= 9


def test_captions_depend_on_prompt_and_seed():
    assert len({tuple(say(Script(seed), [p])) for seed in (0, 1) for p in (5, 6)}) == 4


def agreements(agreement):
    target, draft = Script(), Script(agreement=agreement)
    tokens = [target.next_token([p], []) == draft.next_token([p], []) for p in range(2, 402)]
    return sum(tokens) / len(tokens)


def test_drafts_agree_as_asked():
    assert agreements(1.0) == 1.0
    assert agreements(0.0) == 0.0
    assert agreements(0.7) == pytest.approx(0.7, abs=0.08)


def test_captions_of_a_clip_depend_on_its_frames_and_the_question():
    model = ScriptedVideoLM(Script())
    clip, prompt = tiny_clip(3), PromptConfig()
    inputs = model.prepare(clip, prompt)
    assert inputs.num_visual_tokens == 6
    assert inputs.token_ids.tolist() == model.prepare(clip, prompt).token_ids.tolist()
    for other in (
        model.prepare(tiny_clip(3, seed=1), prompt),
        model.prepare(clip, PromptConfig(text="What?")),
        model.prepare(clip, PromptConfig(system="Be brief.")),
    ):
        assert inputs.token_ids.tolist() != other.token_ids.tolist()
    assert model.decode_text([4, 7, EOS_TOKEN_ID]) == "w4 w7"


class TestStrictness:
    @pytest.fixture
    def session(self):
        session = ScriptedSession(Script(vocab_size=8), num_slots=2, max_length=8)
        session.prefill(0, scripted_prompt(PROMPT))
        return session

    @pytest.mark.parametrize(
        ("slots", "tokens", "message"),
        [
            ([1], [[4]], "empty"),
            ([0, 0], [[4], [4]], "twice"),
            ([0], [[]], "no token"),
            ([0], [[8]], "vocabulary"),
            ([0], [[4] * 6], "no room"),
            ([0], [[EOS_TOKEN_ID, 4]], "after its end"),
        ],
    )
    def test_wrong_feeds(self, session, slots, tokens, message):
        with pytest.raises(SlotError, match=message):
            session.forward(slots, tokens)
        assert session.cached_length(0) == len(PROMPT)

    def test_wrong_slots(self, session):
        with pytest.raises(SlotError, match="taken"):
            session.prefill(0, scripted_prompt(PROMPT))
        with pytest.raises(SlotError, match="do not fit"):
            session.prefill(1, scripted_prompt([4] * 9))
        with pytest.raises(SlotError, match="empty"):
            session.release(1)

    @pytest.mark.parametrize("num_tokens", [-1, 3])
    def test_wrong_roll_backs(self, session, num_tokens):
        session.forward([0], [[4, 5]])
        with pytest.raises(SlotError, match="roll back"):
            session.roll_back(0, num_tokens)

    def test_states_are_the_tokens(self):
        session = ScriptedSession(Script(), 1, 20, taps=Taps(states_layer=0))
        prefill = session.prefill(0, replace(scripted_prompt(PROMPT, 2)))
        assert prefill.visual_states[:, 0].tolist() == [1, 1]
        assert session.forward([0], [[9, 4]]).states[0, :, 0].tolist() == [9, 4]
