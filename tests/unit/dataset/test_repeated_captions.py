"""Guards the alarm for captions that repeat: what counts, and that a sample tells the same."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.repeated_captions import RepeatedCaptions


def test_equal_captions_of_equal_clips_are_no_alarm():
    """Copies of a video are captioned alike, rightly."""
    seen = RepeatedCaptions()
    for _ in range(5):
        seen.add("a red ring", "frames-1")
    seen.add("a blue box", "frames-2")
    assert (seen.num_repeated, seen.share) == (0, 0.0)


def test_equal_captions_of_unequal_clips_are_counted_all():
    seen = RepeatedCaptions()
    for number in range(3):
        seen.add("I can't see the video.", f"frames-{number}")
    seen.add("a blue box", "frames-9")
    assert (seen.num_repeated, seen.share) == (3, 0.75)


def test_nothing_seen_is_no_share():
    assert RepeatedCaptions().share == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("123"))))
def test_the_count_is_that_of_a_plain_comparison(clips):
    seen = RepeatedCaptions()
    for text, frames in clips:
        seen.add(text, frames)
    frames_of = {text: {f for t, f in clips if t == text} for text, _ in clips}
    assert seen.num_repeated == sum(len(frames_of[text]) > 1 for text, _ in clips)


def test_a_sample_of_many_texts_tells_about_the_same():
    """Half of the clips share their text with one other clip of other frames."""
    rng = random.Random(0)
    clips = [(f"pair {i // 2}", f"p{i}") for i in range(4000)]
    clips += [(f"single {i}", f"s{i}") for i in range(4000)]
    rng.shuffle(clips)
    seen = RepeatedCaptions(max_texts=500)
    for text, frames in clips:
        seen.add(text, frames)
    assert 0.4 < seen.share < 0.6
