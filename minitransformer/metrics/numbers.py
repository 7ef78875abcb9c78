"""Scores of answers that are numbers. Needs no library but numpy."""

import math
from collections.abc import Sequence

import numpy as np

from minitransformer.metrics.checks import check_rows

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


def regression(predicted: Sequence[float], right: Sequence[float]) -> dict[str, float]:
    """Correlations (Pearson's, and Spearman's of the ranks), mean squared and mean absolute error, and R².

    Where one side is the same number throughout, correlations are 0: such a model tells nothing of the order, and a
    score that picks the best weights must not be nan. R² is 1 minus the share of the variance that is left; where the
    right numbers do not vary, it is 1 if all are met, else 0.
    """
    check_rows(predicted, right)
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(right, dtype=np.float64)  # [B]
    with np.errstate(all="ignore"):  # a model gone astray says inf or nan, and gets it back
        return {
            "pearson": correlation(x, y),
            "spearman": correlation(ranks(x), ranks(y)),
            "mse": float(((x - y) ** 2).mean()),
            "mae": float(abs(x - y).mean()),
            "r2": explained(x, y),
        }


def correlation(x: Vector, y: Vector) -> float:
    """Pearson's correlation: the cosine of the angle between what x and y differ from their means."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    cosine = (x / np.linalg.norm(x)) @ (y / np.linalg.norm(y))
    return float(np.clip(cosine, -1, 1))


def ranks(x: Vector) -> Vector:
    """The place of each number among all, from 1; equal numbers share the mean of their places."""
    _, group, size = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(size)  # the last place in each group of equal numbers
    return (last - (size - 1) / 2)[group]


def explained(x: Vector, y: Vector) -> float:
    """R²."""
    left, whole = ((x - y) ** 2).sum(), ((y - y.mean()) ** 2).sum()
    if np.ptp(y) == 0:
        return float(left == 0)
    return float(1 - left / whole)


def perplexity(loss: float) -> float:
    """exp of the mean negative log-likelihood of a token."""
    return math.exp(loss) if loss < 709 else math.inf  # above, no float64 holds it
