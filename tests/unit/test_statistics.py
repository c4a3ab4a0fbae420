"""Guards the intervals behind every reported number: reproducible, paired, and honest in width."""

import subprocess
import sys

import numpy as np
import pytest

from pipeline.statistics import bootstrap, bootstrap_mean, share, speed_up


def test_a_95_percent_interval_contains_the_truth_19_times_of_20():
    """60 samples of a skewed distribution of mean 1; the percentile bootstrap is a bit narrow."""
    rng = np.random.default_rng(3)
    estimates = [bootstrap_mean(rng.exponential(size=60)) for _ in range(100)]
    coverage = np.mean([estimate.low <= 1.0 <= estimate.high for estimate in estimates])
    assert 0.87 <= coverage <= 0.99


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    samples = np.random.default_rng(0).normal(5.0, 2.0, 400)
    estimate = bootstrap_mean(samples)
    assert estimate.value == samples.mean()
    assert estimate.num_samples == 400
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 2.0 / 20, rel=0.1)


def test_the_same_samples_give_the_same_interval():
    assert bootstrap_mean([1, 2, 3, 5]) == bootstrap_mean([1, 2, 3, 5])
    assert bootstrap_mean([2.5]).low == bootstrap_mean([2.5]).high == 2.5


def test_rows_are_resampled_whole():
    """Columns that cancel in every row have an interval of no width, however they vary."""
    column = np.random.default_rng(0).normal(size=50)
    estimate = bootstrap(np.column_stack([column, -column]), lambda rows: float(rows.sum()))
    assert (estimate.low, estimate.high) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_no_samples_are_no_estimate():
    with pytest.raises(ValueError, match="at least one sample"):
        bootstrap_mean([])


def test_a_speed_up_is_a_ratio_of_total_rates():
    """10 + 20 tokens in 3 s against 10 + 30 tokens in 8 s: 10 tokens/s against 5."""
    rows = np.array([[10, 1, 10, 3], [20, 2, 30, 5]], dtype=float)
    assert speed_up(rows) == pytest.approx(2.0)
    assert speed_up(np.array([[1.0, 0.0, 1.0, 1.0]])) == 0.0


def test_a_share_is_uncertain_although_all_samples_agree():
    """A bootstrap of 25 hits in 25 would claim 100 % for sure; Wilson's bounds are known values."""
    always, never, half = share(25, 25), share(0, 25), share(5, 10)
    assert (always.value, always.high) == (1.0, 1.0)
    assert always.low == pytest.approx(0.8668, abs=1e-4)
    assert (never.low, never.value) == (0.0, 0.0)
    assert never.high == pytest.approx(1 - always.low)
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    with pytest.raises(ValueError, match="at least one sample"):
        share(0, 0)


def test_one_format_for_all_three_numbers():
    assert f"{bootstrap_mean([0.25, 0.25]):.1%}" == "25.0% [25.0%, 25.0%]"


def test_statistics_and_the_corpus_score_need_no_torch():
    code = "import sys, pipeline.sample_world.corpus_score; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
