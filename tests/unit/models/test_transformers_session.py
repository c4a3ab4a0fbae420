"""Guards the DecodeSession contract on real models: a row depends on its own tokens alone."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from pipeline.config import PromptConfig
from pipeline.decoding.session import NO_TAPS, SlotError, Taps
from pipeline.models.base import turns_of
from tests.tiny_models import tiny_clip

PROMPTS = [(4, "the dog"), (9, "describe this video in detail"), (1, "car"), (6, "what happens ?")]
TOKENS = [50, 61, 72, 83, 94, 105, 116]
MAX_LENGTH = 160


@pytest.fixture(scope="module")
def prompts(pair):
    return [
        pair.target.prepare(tiny_clip(frames, seed=frames), PromptConfig(text=text))
        for frames, text in PROMPTS
    ]


def open_session(pair, num_slots=1, taps=NO_TAPS, max_length=MAX_LENGTH):
    return pair.target.open_session(num_slots, max_length, taps)


def score_alone(pair, prompt, tokens, taps=NO_TAPS):
    """Logits and states after each token, in a session of its own, one token a call."""
    session = open_session(pair, taps=taps)
    session.prefill(0, prompt)
    outputs = [session.forward([0], [[token]]) for token in tokens]
    logits = torch.cat([output.logits[0] for output in outputs])
    states = None if taps == NO_TAPS else torch.cat([o.states[0] for o in outputs])
    return logits, states


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("split", [[7], [1, 6], [3, 1, 3], [2, 2, 2, 1]])
def test_many_tokens_in_a_call_score_as_one_by_one(pair, prompts, split):
    expected, _ = score_alone(pair, prompts[1], TOKENS)
    session = open_session(pair)
    session.prefill(0, prompts[1])
    start, scored = 0, []
    for count in split:
        scored.append(session.forward([0], [TOKENS[start : start + count]]).logits[0])
        start += count
    assert_close(torch.cat(scored), expected)
    assert session.cached_length(0) == prompts[1].num_tokens + len(TOKENS)


@pytest.mark.parametrize("num_dropped", [1, 4, 7])
def test_rolled_back_tokens_leave_no_trace(pair, prompts, num_dropped):
    expected, _ = score_alone(pair, prompts[0], TOKENS)
    session = open_session(pair)
    session.prefill(0, prompts[0])
    num_kept = len(TOKENS) - num_dropped
    session.forward([0], [[*TOKENS[:num_kept], *[7] * num_dropped]])
    session.roll_back(0, num_dropped)
    assert session.cached_length(0) == prompts[0].num_tokens + num_kept
    assert_close(session.forward([0], [TOKENS[num_kept:]]).logits[0], expected[num_kept:])


@pytest.mark.parametrize("slots", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 0], [1, 2]])
def test_rows_of_a_ragged_batch_equal_their_solo_runs(pair, prompts, slots):
    """Unequal prompts, unequal numbers of tokens, neighbouring and scattered slots."""
    session = open_session(pair, num_slots=4)
    for slot in slots:
        session.prefill(slot, prompts[slot])
    lengths = dict(zip(slots, [7, 2, 5, 1]))
    for first, last in [(0, 1), (1, 3), (3, 7)]:
        active = [slot for slot in slots if lengths[slot] > first]
        fed = [TOKENS[first : min(last, lengths[slot])] for slot in active]
        output = session.forward(active, fed)
        for row, slot in enumerate(active):
            expected, _ = score_alone(pair, prompts[slot], TOKENS[: lengths[slot]])
            assert_close(
                output.logits[row, : len(fed[row])], expected[first : first + len(fed[row])]
            )
    for slot in slots:
        assert session.cached_length(slot) == prompts[slot].num_tokens + lengths[slot]


def test_rows_roll_back_by_different_amounts(pair, prompts):
    session = open_session(pair, num_slots=3)
    for slot in range(3):
        session.prefill(slot, prompts[slot])
    session.forward([0, 1, 2], [TOKENS[:4], [*TOKENS[:2], 7, 7], [*TOKENS[:1], 7, 7, 7]])
    session.roll_back(1, 2)
    session.roll_back(2, 3)
    output = session.forward([0, 1, 2], [TOKENS[4:], TOKENS[2:], TOKENS[1:]])
    for slot, kept in enumerate([4, 2, 1]):
        expected, _ = score_alone(pair, prompts[slot], TOKENS)
        assert_close(output.logits[slot, : len(TOKENS) - kept], expected[kept:])


def test_padding_writes_nothing_into_a_row_at_the_end_of_its_slot(pair, prompts):
    """The last token of a full row is fed beside a longer row: padding must not fall on it."""
    short, long = prompts[2], prompts[1]
    max_length = long.num_tokens + len(TOKENS)
    session = open_session(pair, num_slots=2, max_length=max_length)
    session.prefill(0, long)
    session.prefill(1, short)
    row = [TOKENS[i % len(TOKENS)] for i in range(max_length - short.num_tokens)]
    expected, _ = score_alone(pair, short, row)
    session.forward([1], [row[:-1]])
    output = session.forward([0, 1], [TOKENS, row[-1:]])
    assert session.cached_length(1) == max_length
    assert_close(output.logits[1, 0], expected[-1])
    session.roll_back(1, 1)
    assert_close(session.forward([1], [row[-1:]]).logits[0, 0], expected[-1])


def test_slots_can_be_used_again(pair, prompts):
    session = open_session(pair, num_slots=2)
    session.prefill(0, prompts[1])
    session.prefill(1, prompts[3])
    session.forward([0, 1], [TOKENS, TOKENS])
    session.release(0)
    session.prefill(0, prompts[0])
    output = session.forward([0, 1], [TOKENS[:3], [20]])
    expected, _ = score_alone(pair, prompts[0], TOKENS[:3])
    assert_close(output.logits[0], expected)


def test_sessions_on_one_model_do_not_disturb_each_other(pair, prompts):
    """transformers keeps Qwen's rope_deltas on the model: the last prefill would win."""
    expected, _ = score_alone(pair, prompts[0], TOKENS)
    first, second = open_session(pair), open_session(pair, taps=Taps(states_layer=1))
    first.prefill(0, prompts[0])
    second.prefill(0, prompts[1])
    scored = []
    for token in TOKENS:
        scored.append(first.forward([0], [[token]]).logits[0])
        second.forward([0], [[token]])
    assert_close(torch.cat(scored), expected)


def hidden_states(pair, clip, prompt, layer):
    """What transformers itself gives for the prompt's states after one layer."""
    with torch.inference_mode():
        model = pair.target.model
        captured = []
        hook = model.model.language_model.layers[layer].register_forward_hook(
            lambda _m, _i, out: captured.append(out)
        )
        batch = pair.target.processor(
            text=[pair.target._text_of(turns_of(prompt))],
            videos=[clip.frames],
            video_metadata=[{"total_num_frames": 4, "fps": 2.0, "frames_indices": [0, 1, 2, 3]}],
            do_resize=False,
            return_tensors="pt",
        )
        model(**batch)
        hook.remove()
    return captured[0][0], batch["input_ids"][0] == model.config.video_token_id


@pytest.mark.parametrize("layer", [0, 2])
def test_the_tapped_layer_gives_the_videos_states(pair, layer):
    clip, prompt = tiny_clip(4), PromptConfig()
    expected, visual = hidden_states(pair, clip, prompt, layer)
    inputs = pair.target.prepare(clip, prompt)
    states = open_session(pair, taps=Taps(states_layer=layer)).prefill(0, inputs).visual_states
    assert states.shape == (inputs.num_visual_tokens, expected.shape[-1])
    assert_close(states, expected[visual])


def test_tapped_states_come_with_the_logits_and_leave_no_hook(pair, prompts):
    _, expected = score_alone(pair, prompts[0], TOKENS, taps=Taps(states_layer=1))
    session = open_session(pair, num_slots=2, taps=Taps(states_layer=1))
    session.prefill(0, prompts[0])
    session.prefill(1, prompts[1])
    output = session.forward([1, 0], [TOKENS[:2], TOKENS])
    assert_close(output.states[1], expected)
    assert not pair.target.model.model.language_model.layers[1]._forward_hooks


def test_a_prompt_without_video_has_no_visual_states(pair, prompts):
    text_only = prompts[0].token_ids[~prompts[0].visual_mask]
    inputs = replace(
        prompts[0],
        token_ids=text_only,
        position_ids=torch.arange(len(text_only)),
        visual_mask=torch.zeros(len(text_only), dtype=torch.bool),
        next_position=len(text_only),
        vision={},
    )
    output = open_session(pair, taps=Taps(states_layer=1)).prefill(0, inputs)
    assert output.visual_states is None


class TestMisuse:
    """The loop's bookkeeping errors must be loud: a wrong cache gives plausible text."""

    @pytest.fixture
    def session(self, pair, prompts):
        session = open_session(pair, num_slots=2)
        session.prefill(0, prompts[0])
        return session

    def test_taken_and_empty_slots(self, session, prompts):
        with pytest.raises(SlotError, match="taken"):
            session.prefill(0, prompts[0])
        for use in (
            lambda: session.forward([1], [[5]]),
            lambda: session.roll_back(1, 0),
            lambda: session.release(1),
        ):
            with pytest.raises(SlotError, match="empty"):
                use()

    def test_a_row_named_twice_or_fed_nothing(self, session):
        with pytest.raises(SlotError, match="twice"):
            session.forward([0, 0], [[5], [6]])
        with pytest.raises(SlotError, match="no token"):
            session.forward([0], [[]])

    def test_no_room(self, pair, session, prompts):
        with pytest.raises(SlotError, match="no room"):
            session.forward([0], [[5] * MAX_LENGTH])
        with pytest.raises(SlotError, match="does not fit"):
            open_session(pair, max_length=8).prefill(0, prompts[0])

    @pytest.mark.parametrize("num_tokens", [3, -1])
    def test_prompt_tokens_never_roll_back(self, session, num_tokens):
        session.forward([0], [[5, 6]])
        with pytest.raises(SlotError, match="roll back"):
            session.roll_back(0, num_tokens)

    def test_a_failed_prefill_leaves_the_slot_free(self, session, prompts):
        broken = replace(prompts[1], visual_mask=torch.zeros_like(prompts[1].visual_mask))
        with pytest.raises(ValueError, match="placeholders"):
            session.prefill(1, broken)
        session.prefill(1, prompts[1])

    def test_a_layer_that_is_not_there(self, pair):
        with pytest.raises(ValueError, match="tapped layer"):
            open_session(pair, taps=Taps(states_layer=3))


@pytest.mark.parametrize("tapped_layer", [None, 1])
def test_a_session_let_go_frees_its_cache_at_once(pair, prompts, tapped_layer):
    """The engine opens a larger session right after: nothing may wait for the cycle collector."""
    session = open_session(pair, taps=Taps(states_layer=tapped_layer))
    session.prefill(0, prompts[0])
    session.forward([0], [TOKENS])
    cache = weakref.ref(session._cache)
    gc.disable()
    try:
        del session
        assert cache() is None
    finally:
        gc.enable()
