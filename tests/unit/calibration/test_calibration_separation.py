"""Guards AUC, flagged share and thresholds against counting by hand, and intervals over clips."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.calibration.separation import auc, separation, threshold_at

# Few distinct scores, so that ties are the rule.
tied = st.integers(-3, 3).map(lambda score: score / 4)
spread = st.floats(-1e6, 1e6, allow_subnormal=False)
labelled = st.one_of(
    st.lists(st.tuples(scores, st.booleans()), min_size=1, max_size=40) for scores in (tied, spread)
)


def parted(tokens):
    """Scores of the positives and of the negatives."""
    return [s for s, label in tokens if label], [s for s, label in tokens if not label]


def auc_by_pairs(tokens):
    positives, negatives = parted(tokens)
    if not positives or not negatives:
        return math.nan
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives))


def highest_threshold(scores, percent):
    """The highest of the scores that ``percent`` of them reach, counted in whole numbers."""
    return max(
        t for t in scores if 100 * sum(score >= t for score in scores) >= percent * len(scores)
    )


def flagged_by_scan(tokens, percent):
    positives, negatives = parted(tokens)
    if not positives or not negatives:
        return math.nan
    threshold = highest_threshold(positives, percent)
    return sum(n >= threshold for n in negatives) / len(negatives)


@given(labelled)
def test_auc_is_the_share_of_pairs_in_order_ties_counted_half(tokens):
    scores, labels = zip(*tokens)
    assert auc(scores, labels) == pytest.approx(auc_by_pairs(tokens), nan_ok=True)


@given(labelled)
def test_auc_of_negated_scores_is_the_rest(tokens):
    scores, labels = zip(*tokens)
    assert auc([-s for s in scores], labels) == pytest.approx(1 - auc(scores, labels), nan_ok=True)


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 0.0),
        ([2, 2, 2, 2], [1, 0, 1, 0], 0.5),
        ([1, 2, 2, 3], [0, 0, 1, 1], 0.875),
    ],
)
def test_auc_of_cases_known_by_heart(scores, labels, expected):
    assert auc(scores, labels) == expected


@pytest.mark.parametrize("label", [True, False])
def test_auc_of_one_kind_is_unknown(label):
    assert math.isnan(auc([0.1, 0.2], [label, label]))


@given(
    scores=st.one_of(st.lists(s, min_size=1, max_size=60) for s in (tied, spread)),
    percent=st.integers(1, 100),
)
def test_threshold_is_the_highest_that_enough_scores_reach(scores, percent):
    assert threshold_at(scores, percent / 100) == highest_threshold(scores, percent)


def test_threshold_spares_no_score_more_by_a_rounding_error():
    """0.95 of 20 and of 100 are whole numbers, whatever 1 - 0.95 is in floating point."""
    assert threshold_at(np.arange(20), 0.95) == 1
    assert threshold_at(np.arange(100), 0.95) == 5
    assert threshold_at(np.arange(100), 0.99) == 1
    assert threshold_at(np.arange(99), 0.99) == 0


class TestFlagged:
    @pytest.fixture(autouse=True, scope="class")
    @staticmethod
    def few_resamples():
        """Only values are looked at here, no intervals."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.statistics.NUM_RESAMPLES", 2)
            yield

    @given(tokens=labelled)
    @settings(deadline=None)
    def test_share_of_negatives_at_the_threshold_is_as_scanned(self, tokens):
        scores, labels = zip(*tokens)
        found = separation(scores, labels, np.zeros(len(scores), int))
        assert found.flagged.value == pytest.approx(flagged_by_scan(tokens, 99), nan_ok=True)
        assert found.flagged_95.value == pytest.approx(flagged_by_scan(tokens, 95), nan_ok=True)
        assert found.auc.value == pytest.approx(auc_by_pairs(tokens), nan_ok=True)
        assert (found.num_positive, found.num_negative) == (sum(labels), len(labels) - sum(labels))

    @given(seed=st.integers(0, 2**32), positives=st.integers(95, 120))
    @settings(max_examples=40, deadline=None)
    def test_at_the_edge_of_a_recall(self, seed, positives):
        """About a hundred positives, where 99 % and 95 % of them come to whole numbers."""
        scores = np.random.default_rng(seed).integers(0, 30, 200).tolist()
        labels = [place < positives for place in range(len(scores))]
        found = separation(scores, labels, np.zeros(len(scores), int))
        tokens = list(zip(scores, labels))
        assert found.flagged.value == pytest.approx(flagged_by_scan(tokens, 99))
        assert found.flagged_95.value == pytest.approx(flagged_by_scan(tokens, 95))

    def test_one_positive_of_a_hundred_may_be_missed(self):
        """A single low positive is what 99 % recall spares; two it does not."""
        negatives = np.linspace(0.0, 0.5, 50)
        for low, flagged in ((1, 0.0), (2, 1.0)):
            positives = np.r_[np.full(low, -1.0), np.full(100 - low, 1.0)]
            labels = np.r_[np.ones(100, bool), np.zeros(50, bool)]
            found = separation(np.r_[positives, negatives], labels, np.zeros(150, int))
            assert found.flagged.value == flagged
            assert found.flagged_95.value == 0.0


def noisy(num_clips=12, tokens_per_clip=4):
    rng = np.random.default_rng(5)
    labels = np.arange(num_clips * tokens_per_clip) % 2 == 0
    scores = rng.normal(labels, 1.0)
    return scores, labels, np.repeat(np.arange(num_clips), tokens_per_clip)


class TestIntervals:
    def test_tokens_said_again_by_the_same_clip_tell_nothing_new(self):
        """Clips are resampled, not tokens: five copies of every token leave the intervals alone."""
        once = separation(*noisy())
        again = separation(*(np.tile(values, 5) for values in noisy()))
        assert again.auc.num_samples == once.auc.num_samples == 12
        for name in ("value", "low", "high"):
            assert getattr(again.auc, name) == pytest.approx(getattr(once.auc, name))
        assert once.auc.low < once.auc.value < once.auc.high

    def test_the_same_tokens_as_clips_of_their_own_do(self):
        scores, labels, clips = (np.tile(values, 5) for values in noisy())
        clips += 12 * (np.arange(len(clips)) // (len(clips) // 5))
        as_one, apart = separation(*noisy()).auc, separation(scores, labels, clips).auc
        assert apart.num_samples == 60
        assert apart.high - apart.low < 0.7 * (as_one.high - as_one.low)

    def test_the_names_of_clips_and_the_order_of_tokens_do_not_matter(self):
        scores, labels, clips = noisy()
        order = np.random.default_rng(1).permutation(len(scores))
        shuffled = separation(scores[order], labels[order], 7 * clips[order] + 100)
        assert shuffled == separation(scores, labels, clips)

    def test_one_clip_has_an_interval_of_no_width(self):
        found = separation([1, 2, 3, 4], [0, 1, 0, 1], [9, 9, 9, 9]).auc
        assert found.low == found.value == found.high == 0.75
        assert found.num_samples == 1

    @pytest.mark.parametrize("label", [True, False])
    def test_one_kind_alone_is_separated_from_nothing(self, label):
        found = separation([1, 2, 3], [label] * 3, [0, 1, 2])
        for estimate in (found.auc, found.flagged, found.flagged_95):
            assert math.isnan(estimate.value)
        assert (found.num_positive, found.num_negative) == ((3, 0) if label else (0, 3))

    def test_no_tokens_are_an_error(self):
        with pytest.raises(ValueError, match="at least one"):
            separation([], [], [])


def test_no_tokens_have_no_auc():
    """A draft that always agrees leaves no mismatches."""
    assert np.isnan(auc([], []))


def test_an_interval_is_known_where_some_resamples_lack_a_kind():
    figures = separation([0.1, 0.9, 0.2, 0.3, 0.4, 0.5], [0, 1, 0, 0, 0, 0], range(6))
    assert (figures.auc.low, figures.auc.value, figures.auc.high) == (1.0, 1.0, 1.0)
