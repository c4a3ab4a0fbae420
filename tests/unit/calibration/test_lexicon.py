"""Guards the visual lexicon: planted words come out as planted, and sums are those of the text."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.calibration.lexicon import LexiconCounts, count_moved
from pipeline.models.scripted import EOS_TOKEN_ID, Script, ScriptedVideoLM
from tests.unit.calibration.planted import PlantedVideoLM, captions_of, clip_request

# A caption is "filler, colour, filler, shape, <end>"; colour and shape hang on the video alone.
FILLER, COLOUR, SHAPE, NEVER = 2, 10, 20, 9
NUM_CLIPS = 8


def planted(video, token_ids):
    """Colours are as many as clips, shapes only two."""
    words = (FILLER, COLOUR + video % NUM_CLIPS, FILLER, SHAPE + video % 2, EOS_TOKEN_ID)
    return words[len(token_ids)]


def counted(model, script, num_clips=NUM_CLIPS, num_others=4, requests=None):
    told = []
    requests = requests or [clip_request(8 + i) for i in range(num_clips)]
    captions = captions_of(script, requests)
    return captions, count_moved(model, captions, num_others, told.append), told


def counts_of_planted(say=planted, **kwargs):
    model = PlantedVideoLM(say)
    return counted(model, model._planted, **kwargs)[1]


class TestPlanted:
    def test_words_of_the_video_are_strict_and_fillers_are_not(self):
        values = counts_of_planted(num_others=7).lexicon()
        assert values.dtype == np.float32
        assert (values[COLOUR : COLOUR + NUM_CLIPS] > 0.99).all()
        assert 0 < values[FILLER] < 0.02  # 16 places, none moved
        assert values[EOS_TOKEN_ID] < 0.03
        assert values[SHAPE] == pytest.approx(values[SHAPE + 1])

    def test_a_word_that_some_other_videos_share_is_between(self):
        """Of the 7 other clips 3 have the same shape and 4 the other one, so each shape is possible
        at 4 + 4 * 4/7 places (its own clips, and other clips with its video) and moved at those
        with a 4 in them: 4 * 4/7 of either kind."""
        counts = counts_of_planted(num_others=7)
        assert counts.mass[SHAPE] == pytest.approx(4 + 4 * 4 / 7)
        assert counts.moved[SHAPE] == pytest.approx(4 * 4 / 7 + 4 * 4 / 7)
        assert counts.lexicon()[SHAPE] == pytest.approx((32 / 7 + 0.2) / (44 / 7 + 0.2))

    def test_a_word_that_was_never_possible_is_exactly_1(self):
        counts = counts_of_planted()
        assert counts.mass[NEVER] == counts.occurrences[NEVER] == 0
        assert counts.lexicon()[NEVER] == 1.0

    def test_a_filler_that_is_rare_is_stricter_than_a_frequent_one(self):
        values = counts_of_planted(num_clips=2, num_others=1).lexicon()
        assert values[FILLER] == pytest.approx(0.2 / 4.2)
        assert values[EOS_TOKEN_ID] == pytest.approx(0.2 / 2.2)

    def test_only_what_the_video_gave_was_seen(self):
        counts = counts_of_planted(num_others=7)
        assert counts.occurrences[FILLER] == 16
        assert counts.seen[FILLER] == counts.seen[EOS_TOKEN_ID] == 0
        assert counts.occurrences[COLOUR] == counts.seen[COLOUR] == 1
        assert counts.occurrences.sum() == 5 * NUM_CLIPS

    @pytest.mark.parametrize(("others_that_share", "is_seen"), [(1, True), (2, True), (3, False)])
    def test_half_of_the_probability_must_be_the_videos(self, others_that_share, is_seen):
        """Over 4 other videos: a word that 2 of them say as well gained exactly a half."""
        sharing = 1 + others_that_share

        def say(video, token_ids):
            return EOS_TOKEN_ID if token_ids else (COLOUR if video < 8 + sharing else FILLER)

        counts = counts_of_planted(say, num_clips=5)
        assert counts.occurrences[COLOUR] == sharing
        assert counts.seen[COLOUR] == (sharing if is_seen else 0)

    def test_the_threshold_parts_what_was_seen_from_fillers(self):
        counts = counts_of_planted()
        values, threshold = counts.lexicon(), counts.visual_threshold()
        assert values[FILLER] < threshold < values[COLOUR]

    def test_where_nothing_hangs_on_the_video_nothing_was_seen(self):
        counts = counts_of_planted(lambda video, ids: (FILLER, FILLER, EOS_TOKEN_ID)[len(ids)])
        assert counts.seen.sum() == counts.moved.sum() == 0
        assert counts.visual_threshold() == 1.0


def by_hand(script, captions, num_others):
    """The sums as their definition says, from the script alone."""
    size, num_clips = script.vocab_size, len(captions)
    mass, moved = np.zeros(size), np.zeros(size)
    occurrences, seen = np.zeros(size, int), np.zeros(size, int)

    def probabilities(prompt, begun):
        logits = np.zeros(size)
        logits[script.next_token(prompt.token_ids.tolist(), begun)] = 1.0
        return np.exp(logits) / np.exp(logits).sum()

    for index, caption in enumerate(captions):
        others = [captions[(index + n) % num_clips] for n in range(1, num_others + 1)]
        for place, token in enumerate(caption.token_ids):
            begun = caption.token_ids[:place]
            p = probabilities(caption.request.target, begun)
            gains = []
            for other in others:
                q = probabilities(other.request.target, begun)
                mass += np.maximum(p, q) / num_others
                moved += (p - q) ** 2 / np.maximum(p, q) / num_others
                gains.append(p[token] - q[token])
            occurrences[token] += 1
            seen[token] += np.mean(gains) >= 0.5
    return mass, moved, occurrences, seen


@given(seed=st.integers(0, 1000), num_clips=st.integers(2, 6), data=st.data())
@settings(max_examples=15, deadline=None)
def test_sums_are_those_of_each_caption_with_the_clips_that_follow_it(seed, num_clips, data):
    """Every entry at every place, the first token and captions of different lengths included. With
    as few entries a token has much probability that no video gave it."""
    num_others = data.draw(st.integers(1, num_clips - 1))
    script = Script(seed=seed, vocab_size=6, min_length=1, max_length=7)
    # Prompts of different lengths too.
    requests = [clip_request(2 + i, num_visual_tokens=1 + 3 * (i % 2)) for i in range(num_clips)]
    captions, counts, _ = counted(
        ScriptedVideoLM(script), script, num_others=num_others, requests=requests
    )
    expected = by_hand(script, captions, num_others)
    for found, by_definition in zip(
        (counts.mass, counts.moved, counts.occurrences, counts.seen), expected
    ):
        np.testing.assert_allclose(found, by_definition, rtol=1e-5, atol=1e-7)
    values = counts.lexicon()
    assert ((values > 0) & (values <= 1)).all()


@pytest.mark.parametrize("num_others", [1, 4, 7])
def test_captions_are_reported_once_each_when_they_are_done(num_others):
    model = PlantedVideoLM(planted)
    assert counted(model, model._planted, num_others=num_others)[2] == list(range(1, 9))


@pytest.mark.parametrize(("num_clips", "num_others"), [(3, 3), (3, 4), (1, 1), (3, 0)])
def test_as_many_other_videos_as_captions_are_an_error(num_clips, num_others):
    with pytest.raises(ValueError, match=f"{num_clips} captions: too few for {num_others} other"):
        counts_of_planted(num_clips=num_clips, num_others=num_others)


entries = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.integers(0, 30)),
    min_size=1,
    max_size=12,
)


def table(entries):
    """Counts whose lexicon has the values of the entries (nearly), and their seen occurrences."""
    shares, seen = zip(*entries)
    mass = np.full(len(entries), 1000.0)
    counts = np.array(seen)
    return LexiconCounts(mass, mass * shares, counts, counts)


@given(entries)
@example([(0.9, 19), (0.1, 1)])
@example([(0.9, 18), (0.1, 2)])
@example([(0.9, 95), (0.1, 5)])
@example([(0.9, 94), (0.1, 6)])
@example([(0.5, 10), (0.5, 10)])
def test_the_threshold_is_the_highest_that_a_twentieth_of_the_seen_is_not_above(entries):
    counts = table(entries)
    values, threshold = counts.lexicon(), counts.visual_threshold()
    total = counts.seen.sum()

    def above(limit):
        return counts.seen[values > limit].sum()

    if not total:
        assert threshold == 1.0
        return
    assert 20 * above(threshold) >= 19 * total
    # The next higher limit that changes anything has too few above it.
    assert 20 * above(min(values[values > threshold])) < 19 * total
    assert threshold < 1
