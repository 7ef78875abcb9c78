"""The paired bootstrap tells a difference from luck."""

import numpy as np
import pytest
from scipy import stats

from minitransformer.errors import DataError
from minitransformer.metrics import LOWER_IS_BETTER, paired_bootstrap


def test_a_difference_that_is_there_is_found():
    rng = np.random.default_rng(1)
    b = rng.random(500)
    found = paired_bootstrap(b + 0.05 + rng.normal(0, 0.1, 500), b)
    assert found["difference"] == pytest.approx(0.05, abs=0.02)
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["p"] == pytest.approx(1 / 1001)
    turned = paired_bootstrap(b, b + 0.05)
    assert turned["difference"] == pytest.approx(-0.05)


def test_interval_and_p_are_those_of_the_t_test_where_that_holds():
    gains = np.random.default_rng(2).normal(0.1, 1, 400)
    found = paired_bootstrap(gains, np.zeros(400), samples=4000)
    t = stats.ttest_1samp(gains, 0)
    interval = t.confidence_interval(0.95)
    assert found["p"] == pytest.approx(t.pvalue, abs=0.03)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high), abs=0.02)


def test_p_under_the_null_is_small_as_rarely_as_it_says():
    rng = np.random.default_rng(3)
    ps = [paired_bootstrap(rng.normal(size=50), rng.normal(size=50), samples=200, seed=i)["p"] for i in range(100)]
    assert 0 < np.mean(np.array(ps) < 0.05) < 0.13
    assert stats.kstest(ps, "uniform").pvalue > 0.001


def test_the_same_seed_gives_the_same_and_equals_are_equal():
    a, b = [1, 0, 1, 1, 0], [0, 0, 1, 1, 1]
    assert paired_bootstrap(a, b, seed=5) == paired_bootstrap(a, b, seed=5) != paired_bootstrap(a, b, seed=6)
    assert paired_bootstrap(a, a) == {"difference": 0, "low": 0, "high": 0, "p": 1}
    with pytest.raises(DataError, match="got 1 answers, expected 2"):
        paired_bootstrap([1], [1, 2])


def test_very_few_rows_say_little():
    """A coin that falls three times on one side: p is 0.25, as the sign test has it."""
    for count in (1, 2, 3, 4, 8):
        p = stats.binomtest(count, count).pvalue
        assert paired_bootstrap([1.0] * count, [0.0] * count)["p"] == pytest.approx(p)
        assert paired_bootstrap([1.0] * count + [0.5] * 40, [0.0] * count + [0.5] * 40)["p"] >= p


def test_errors_are_lower_the_better():
    assert {"loss", "perplexity", "mse", "mae"} == LOWER_IS_BETTER
