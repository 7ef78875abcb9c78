"""Scores of answers that are classes: one for each row, or any number of them. Needs no library."""

import math
from collections import Counter
from collections.abc import Collection, Sequence

from minitransformer.metrics.checks import check_labels, check_rows

SCORES = ("precision", "recall", "f1")


def classification(predicted: Sequence[str], right: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Accuracy; precision, recall and F1, each as the macro and the weighted mean of the classes; and MCC.

    The means are over the classes that occur among the right or the predicted ones: each counts the same (macro), or
    as often as it is right (weighted). The micro means are not given: here all three are the accuracy. What is 0/0
    counts 0, say the precision of a class that was never predicted.
    """
    each = per_class(predicted, right, labels)
    names = {*predicted, *right}
    occurring = [each[label] for label in labels if label in names]
    scores = {"accuracy": sum(p == r for p, r in zip(predicted, right, strict=True)) / len(right)}
    for name in SCORES:
        scores[f"{name}_macro"] = sum(scores_of[name] for scores_of in occurring) / len(occurring)
        scores[f"{name}_weighted"] = sum(scores_of[name] * scores_of["rows"] for scores_of in occurring) / len(right)
    return {**scores, "mcc": matthews_correlation(predicted, right)}


def per_class(predicted: Sequence[str], right: Sequence[str], labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """For each label its precision, recall and F1, and how many rows have it."""
    check_rows(predicted, right)
    check_labels([*predicted, *right], labels)
    hits = Counter(r for p, r in zip(predicted, right, strict=True) if p == r)
    found, rows = Counter(predicted), Counter(right)
    return {label: {**ratios(hits[label], found[label], rows[label]), "rows": rows[label]} for label in labels}


def ratios(hits: int, found: int, right: int) -> dict[str, float]:
    """Precision, recall and F1 of so many found, so many to be found, and so many hits among them; 0/0 is 0."""
    return {
        "precision": hits / found if found else 0.0,
        "recall": hits / right if right else 0.0,
        "f1": 2 * hits / (found + right) if found or right else 0.0,
    }


def matthews_correlation(predicted: Sequence[str], right: Sequence[str]) -> float:
    """The correlation of two series of classes; 0 where either is one class throughout.

    Of two classes it is Pearson's, of their numbers 0 and 1. Matthews 1975; of more than two, Gorodkin 2004.
    """
    found, wanted, n = Counter(predicted), Counter(right), len(right)
    hits = sum(p == r for p, r in zip(predicted, right, strict=True))
    covariance = n * hits - sum(found[label] * wanted[label] for label in wanted)
    spreads = [n * n - sum(count * count for count in counts.values()) for counts in (found, wanted)]
    return covariance / math.sqrt(spreads[0] * spreads[1]) if all(spreads) else 0.0


def confusion_matrix(predicted: Sequence[str], right: Sequence[str], labels: Sequence[str]) -> list[list[int]]:
    """How often each label (a row of the matrix) was taken for each label (a column)."""
    check_rows(predicted, right)
    check_labels([*predicted, *right], labels)
    pairs = Counter(zip(right, predicted, strict=True))
    return [[pairs[wanted, found] for found in labels] for wanted in labels]


def multilabel(
    predicted: Sequence[Collection[str]], right: Sequence[Collection[str]], labels: Sequence[str]
) -> dict[str, float]:
    """Of answers that are sets of labels: precision, recall and F1 (micro and macro), and subset accuracy.

    Micro: of all pairs of a row and a label together. Macro: the mean of the labels that occur among the right or the
    predicted ones. subset_accuracy is the share of rows whose whole set is right. 0/0 counts 0.
    """
    pairs, (hits, found, wanted) = set_counts(predicted, right, labels)
    micro = ratios(hits.total(), found.total(), wanted.total())
    each = [ratios(hits[label], found[label], wanted[label]) for label in {*found, *wanted}]
    return {
        "subset_accuracy": sum(p == r for p, r in pairs) / len(pairs),
        **{f"{name}_micro": micro[name] for name in SCORES},
        **{f"{name}_macro": sum(scores[name] for scores in each) / max(1, len(each)) for name in SCORES},
    }


def per_label(
    predicted: Sequence[Collection[str]], right: Sequence[Collection[str]], labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Of answers that are sets of labels: each label's precision, recall and F1, and how many rows have it."""
    _, (hits, found, wanted) = set_counts(predicted, right, labels)
    return {label: {**ratios(hits[label], found[label], wanted[label]), "rows": wanted[label]} for label in labels}


def set_counts(
    predicted: Sequence[Collection[str]], right: Sequence[Collection[str]], labels: Sequence[str]
) -> tuple[list[tuple[set[str], set[str]]], tuple[Counter[str], Counter[str], Counter[str]]]:
    """Both as sets, row by row; and how often each label is a hit, is found, and is to be found."""
    check_rows(predicted, right)
    pairs = [(set(p), set(r)) for p, r in zip(predicted, right, strict=True)]
    hits = Counter(label for p, r in pairs for label in p & r)
    found, wanted = Counter(label for p, _ in pairs for label in p), Counter(label for _, r in pairs for label in r)
    check_labels({*found, *wanted}, labels)
    return pairs, (hits, found, wanted)
