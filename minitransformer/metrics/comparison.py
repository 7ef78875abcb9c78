"""Which of two is better: two values of a metric, or two runs judged on the same rows."""

from collections.abc import Sequence

import numpy as np

from minitransformer.metrics.checks import check_rows

LOWER_IS_BETTER = frozenset({"loss", "perplexity", "mse", "mae"})  # of all other metrics more is better


def goodness(metric: str, value: float) -> float:
    """The value of a metric, or what is opposite to it, so that more is better."""
    return -value if metric in LOWER_IS_BETTER else value


def paired_bootstrap(
    scores_a: Sequence[float], scores_b: Sequence[float], *, samples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Whether run A is better than run B by more than luck: each row's score, of A and of B, on the same rows.

    The rows are drawn anew, as many as there are and with replacement, `samples` times, each time with the mean
    difference A - B among those drawn. `difference` is the mean of all rows; from `low` to `high` lie 95 % of the
    drawn ones; `p` is how often they stray from `difference` by at least as much as that is from 0: what luck alone
    would do if both runs were equally good. (One is added to both counts: p is never 0; nor is it below what throwing a
    coin for each row that differs would give, for of very few rows none strays.)
    Koehn 2004, "Statistical significance tests for machine translation evaluation"; Efron and Tibshirani 1993,
    "An introduction to the bootstrap", chapters 13 and 16.
    """
    check_rows(scores_a, scores_b)
    gains = np.asarray(scores_a, dtype=np.float64) - np.asarray(scores_b, dtype=np.float64)  # [B]
    random = np.random.default_rng(seed)
    drawn = np.array([random.choice(gains, len(gains)).mean() for _ in range(samples)])  # [samples]
    difference = gains.mean()
    low, high = np.quantile(drawn, [0.025, 0.975])
    astray = np.count_nonzero(abs(drawn - difference) >= abs(difference))
    coin = min(1.0, 2 * 0.5 ** int(np.count_nonzero(gains)))  # that all fall on one side
    return {
        "difference": float(difference),
        "low": float(low),
        "high": float(high),
        "p": max((astray + 1) / (samples + 1), coin),
    }
