"""Scores of classes are scikit-learn's, asked in another way."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    f1_score,
    matthews_corrcoef,
    multilabel_confusion_matrix,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.preprocessing import MultiLabelBinarizer

from minitransformer.errors import DataError
from minitransformer.metrics import classification, confusion_matrix, multilabel, per_class

LABELS = ("nötig", "b-ad", "a\nb", "", "5")
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=30)


def close(a, b):
    assert a == pytest.approx(b, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_a_class_each_equals_the_report_of_scikit_learn(pairs):
    predicted, right = (list(side) for side in zip(*pairs, strict=True))
    scores = classification(predicted, right, LABELS)
    report = classification_report(right, predicted, output_dict=True, zero_division=0)
    for mean in ("macro", "weighted"):
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            close(scores[f"{ours}_{mean}"], report[f"{mean} avg"][theirs])
    close(scores["accuracy"], np.mean([p == r for p, r in pairs]))
    assert set(scores) == {
        "accuracy", "mcc",
        "precision_macro", "recall_macro", "f1_macro", "precision_weighted", "recall_weighted", "f1_weighted",
    }  # fmt: skip
    for label, figures in per_class(predicted, right, LABELS).items():
        theirs = report.get(label, {"precision": 0, "recall": 0, "f1-score": 0, "support": 0})
        close(list(figures.values()), list(theirs.values()))
    assert confusion_matrix(predicted, right, LABELS) == sklearn_confusion(right, predicted, labels=LABELS).tolist()


def test_mcc_is_the_correlation_of_two_classes_and_0_where_there_is_one():
    rng = random.Random(0)
    right = [rng.choice("ab") for _ in range(200)]
    predicted = [r if rng.random() < 0.7 else rng.choice("ab") for r in right]
    ones = [[label == "a" for label in side] for side in (predicted, right)]
    close(classification(predicted, right, ["a", "b"])["mcc"], np.corrcoef(*ones)[0, 1])
    three = ["c", *right[1:]]
    close(classification(predicted, three, ["a", "b", "c"])["mcc"], matthews_corrcoef(three, predicted))
    assert classification(["a", "a"], ["a", "a"], ["a", "b"])["mcc"] == 0
    assert classification(["a", "a"], ["a", "b"], ["a", "b"])["mcc"] == 0


def test_rows_of_the_confusion_matrix_are_right():
    assert confusion_matrix(["b", "b", "a"], ["a", "a", "a"], ["a", "b", "c"]) == [[1, 2, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("judge", [classification, per_class, confusion_matrix])
def test_what_cannot_be_judged_is_named(judge):
    with pytest.raises(DataError, match="got 2 answers, expected 1"):
        judge(["a", "a"], ["a"], ["a", "b"])
    with pytest.raises(DataError, match="no rows"):
        judge([], [], ["a", "b"])
    with pytest.raises(DataError, match="got 'z', expected one of a, b"):
        judge(["z"], ["a"], ["a", "b"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sets(st.sampled_from(LABELS)), st.frozensets(st.sampled_from(LABELS))), min_size=1))
def test_sets_of_labels_equal_scikit_learn(pairs):
    predicted, right = (list(side) for side in zip(*pairs, strict=True))
    scores = multilabel(predicted, right, LABELS)
    binary = MultiLabelBinarizer(classes=LABELS).fit(right)
    found, wanted = binary.transform(predicted), binary.transform(right)
    close(scores["subset_accuracy"], accuracy_score(wanted, found))
    close(scores["f1_micro"], f1_score(wanted, found, average="micro", zero_division=0))
    counts = multilabel_confusion_matrix(wanted, found).astype(float)  # [labels 2 2]
    tp, fp, fn = counts[:, 1, 1], counts[:, 0, 1], counts[:, 1, 0]
    seen = tp + fp + fn > 0
    each = {
        "precision": np.divide(tp, tp + fp, out=np.zeros(5), where=tp + fp > 0),
        "recall": np.divide(tp, tp + fn, out=np.zeros(5), where=tp + fn > 0),
        "f1": np.divide(2 * tp, 2 * tp + fp + fn, out=np.zeros(5), where=seen),
    }
    for name, values in each.items():
        close(scores[f"{name}_macro"], values[seen].mean() if seen.any() else 0)
    close(scores["precision_micro"], tp.sum() / max(1, (tp + fp).sum()))
    close(scores["recall_micro"], tp.sum() / max(1, (tp + fn).sum()))


def test_labels_that_occur_nowhere_do_not_lower_the_macro_mean():
    assert multilabel([{"a"}, {"b"}], [{"a"}, {"b"}], ["a", "b", "c"])["f1_macro"] == 1
    assert multilabel([["a"]], [("a",)], ["a"])["subset_accuracy"] == 1
    with pytest.raises(DataError, match="got 'z'"):
        multilabel([{"z"}], [{"a"}], ["a"])
