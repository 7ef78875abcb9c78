"""Scores of numbers are scipy's and scikit-learn's."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn

from minitransformer.errors import DataError
from minitransformer.metrics import perplexity, regression

FEW = st.integers(-3, 3).map(float)  # many ties
MANY = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(FEW, FEW), min_size=3) | st.lists(st.tuples(MANY, MANY), min_size=3))
def test_numbers_equal_scipy_and_scikit_learn(pairs):
    predicted, right = (list(side) for side in zip(*pairs, strict=True))
    scores = regression(predicted, right)
    constant = len(set(predicted)) == 1 or len(set(right)) == 1
    expected = {
        "pearson": 0 if constant else stats.pearsonr(predicted, right).statistic,
        "spearman": 0 if constant else stats.spearmanr(predicted, right).statistic,
        "mse": sklearn.mean_squared_error(right, predicted),
        "mae": sklearn.mean_absolute_error(right, predicted),
        "r2": sklearn.r2_score(right, predicted),
    }
    assert scores == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert all(type(value) is float for value in scores.values())


def test_ties_share_the_mean_of_their_places():
    found, right = [1, 2, 2, 3], [10, 20, 30, 40]  # ranks 1, 2.5, 2.5, 4
    assert regression(found, right)["spearman"] == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_what_has_no_correlation_is_0_and_never_a_warning():
    for predicted, right in (([2.0], [2.0]), ([0.1] * 3, [1, 2, 3]), ([1, 2, 3], [0.1] * 3)):
        scores = regression(predicted, right)
        assert scores["pearson"] == scores["spearman"] == 0
    assert regression([2.0], [2.0])["r2"] == 1
    assert regression([1.0, 2.0], [2.0, 2.0])["r2"] == 0
    assert math.isnan(regression([math.nan, 1.0], [1.0, 2.0])["mse"])
    assert regression([math.inf, 1.0], [1.0, 2.0])["mse"] == math.inf
    assert regression([1e300, 1.0], [1.0, 2.0])["mse"] == math.inf


def test_numbers_that_cannot_be_compared():
    with pytest.raises(DataError, match="got 1 answers, expected 2"):
        regression([1.0], [1.0, 2.0])


def test_perplexity():
    assert perplexity(0) == 1
    assert perplexity(math.log(50257)) == pytest.approx(50257)
    assert perplexity(1e4) == math.inf
    assert perplexity(np.float32(2)) == pytest.approx(math.e**2)
