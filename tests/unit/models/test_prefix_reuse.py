"""A second question about a video is answered as if it were the first, and reads little anew."""

from __future__ import annotations

import pytest
import torch

from pipeline.config import PromptConfig
from pipeline.decoding.prefix_cache import Prefix, PrefixCache, prefix_key, prefix_length
from pipeline.decoding.pruning import prune
from pipeline.decoding.session import ModelInputs, PrefillOutput, Taps
from pipeline.models.base import Turn
from pipeline.speculation_config import PruningPolicy
from tests.tiny_models import tiny_clip

TAPS = Taps(states_layer=1, attention_layer=2)
MAX_LENGTH = 200


def read(session, inputs: ModelInputs, max_tokens: int = MAX_LENGTH) -> tuple[PrefillOutput, int]:
    """The prompt's output and the number of tokens that were known."""
    session.start_prefill(0, inputs)
    known = session.cached_length(0)
    output = None
    while output is None:
        output = session.continue_prefill(0, max_tokens)
    return output, known


def same(actual: PrefillOutput, expected: PrefillOutput) -> None:
    for name in ("logits", "visual_states", "visual_attention"):
        torch.testing.assert_close(
            getattr(actual, name), getattr(expected, name), atol=2e-4, rtol=1e-4
        )


@pytest.mark.parametrize("chunk", [MAX_LENGTH, 5])
@pytest.mark.parametrize("keep_ratio", [1.0, 0.4])
def test_another_question_on_the_video_reads_what_follows_it(pair, chunk, keep_ratio):
    """Logits, tapped states and attention as read whole; also when the draft's video is pruned."""
    clip = tiny_clip(6, seed=3)
    asked = [
        prune(pair.target.prepare(clip, PromptConfig(text=text)), keep_ratio, PruningPolicy.UNIFORM)
        for text in ("the dog", "describe this video in detail", "the dog")
    ]
    prefixes = PrefixCache(1 << 30)
    session = pair.target.open_session(1, MAX_LENGTH, TAPS, prefixes)
    for number, inputs in enumerate(asked):
        expected = pair.target.open_session(1, MAX_LENGTH, TAPS).prefill(0, inputs)
        output, known = read(session, inputs, chunk)
        same(output, expected)
        assert known == (prefix_length(inputs) if number else 0)
        after = session.forward([0], [[50, 61]]).logits
        fresh = pair.target.open_session(1, MAX_LENGTH)
        fresh.prefill(0, inputs)
        torch.testing.assert_close(
            after, fresh.forward([0], [[50, 61]]).logits, atol=2e-4, rtol=1e-4
        )
        session.release(0)
    assert (prefixes.num_queries, prefixes.num_hits) == (3, 2)


def test_a_longer_session_knows_what_a_shorter_one_has_read(pair):
    inputs = pair.target.prepare(tiny_clip(4), PromptConfig())
    prefixes = PrefixCache(1 << 30)
    read(pair.target.open_session(1, MAX_LENGTH, TAPS, prefixes), inputs)
    output, known = read(pair.target.open_session(3, 2 * MAX_LENGTH, TAPS, prefixes), inputs)
    assert known == prefix_length(inputs)
    same(output, pair.target.open_session(1, MAX_LENGTH, TAPS).prefill(0, inputs))


def test_other_frames_or_other_words_before_them_are_another_prefix(pair):
    clip, other = tiny_clip(4, seed=1), tiny_clip(4, seed=2)
    question = Turn("user", "the dog", has_video=True)
    keys = {
        prefix_key(pair.target.converse(clip, [question])),
        prefix_key(pair.target.converse(other, [question])),
        prefix_key(pair.target.converse(clip, [Turn("system", "a car"), question])),
        prefix_key(prune(pair.target.converse(clip, [question]), 0.5, PruningPolicy.UNIFORM)),
    }
    assert len(keys) == 4
    assert None not in keys


def test_a_conversation_continues_its_video(pair):
    """Later turns are read after the first one's video, and text alone has no prefix."""
    clip = tiny_clip(4)
    first = Turn("user", "the dog", has_video=True)
    later = [first, Turn("assistant", "a car"), Turn("user", "what happens ?")]
    inputs = pair.target.converse(clip, later)
    assert prefix_key(inputs) == prefix_key(pair.target.converse(clip, [first]))
    text = pair.target.converse(None, [Turn("user", "the dog")])
    assert prefix_key(text) is None
    assert text.num_visual_tokens == 0


@pytest.mark.parametrize(
    ("has_clip", "turns"),
    [
        (True, [Turn("user", "no video")]),
        (False, [Turn("user", "a video", has_video=True)]),
        (True, [Turn("user", "one", has_video=True), Turn("user", "two", has_video=True)]),
        (False, []),
    ],
)
def test_turns_must_fit_the_clip(pair, has_clip, turns):
    with pytest.raises(ValueError, match="with a video"):
        pair.target.converse(tiny_clip(2) if has_clip else None, turns)


def prefix(num_bytes: int) -> Prefix:
    return Prefix(torch.zeros(1, 1, num_bytes, 1, dtype=torch.uint8), None)


def test_the_longest_unused_prefixes_go_first():
    cache = PrefixCache(100)
    cache.put("a", prefix(40))
    cache.put("b", prefix(40))
    assert cache.get("a") is not None
    cache.put("c", prefix(40))
    assert ["a" in cache, "b" in cache, "c" in cache] == [True, False, True]
    cache.put("huge", prefix(101))
    assert "huge" not in cache
    assert "a" in cache
    cache.put("all", prefix(100))
    assert ["a" in cache, "c" in cache, "all" in cache] == [False, False, True]
