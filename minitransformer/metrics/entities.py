"""Scores of answers that are a tag for each word: how many entities were found, whole and with the right type."""

import re
from collections.abc import Sequence
from typing import Any

from minitransformer.errors import DataError
from minitransformer.metrics.checks import check_rows, library

Tags = Sequence[Sequence[str]]  # for each sentence a tag for each word: B-PER, I-PER, O
TAG = re.compile(r"O|[BIES](-.*)?", re.DOTALL)
PER_TYPE = {"precision": "precision", "recall": "recall", "f1-score": "f1", "support": "entities"}


def entities(predicted: Tags, right: Tags) -> dict[str, float]:
    """Precision, recall and F1 of entities, in two readings, and the accuracy of words.

    precision, recall, f1: as the script `conlleval` of CoNLL-2000 counts, and as is published: an entity also starts at
    an I- without a B- before it. strict_precision and so on: only what is written properly is an entity, from its B-
    (or in tags with E- and S-, from its B- to its E-). An entity counts if its type, first and last word are right.
    What is 0/0 counts 0, say the recall where no sentence has an entity.
    """
    found, wanted = checked(predicted, right)
    sequences, schemes = library("seqeval.metrics.sequence_labeling", "seqeval"), library("seqeval.scheme", "seqeval")
    strict, names = library("seqeval.metrics.v1", "seqeval"), ("precision", "recall", "f1")
    scheme = schemes.IOBES if any(tag[0] in "ES" for tags in (*found, *wanted) for tag in tags) else schemes.IOB2
    options = {"average": "micro", "zero_division": 0}
    usual = sequences.precision_recall_fscore_support(wanted, found, **options)
    proper = strict.precision_recall_fscore_support(wanted, found, scheme=scheme, **options)
    words = [p == r for ps, rs in zip(found, wanted, strict=True) for p, r in zip(ps, rs, strict=True)]
    return {
        **{name: float(value) for name, value in zip(names, usual, strict=False)},
        **{f"strict_{name}": float(value) for name, value in zip(names, proper, strict=False)},
        "accuracy": sum(words) / len(words),
    }


def per_type(predicted: Tags, right: Tags) -> dict[str, dict[str, float]]:
    """For each type of entity its precision, recall and F1, as `conlleval` counts, and how many there are to find."""
    found, wanted = checked(predicted, right)
    if not any(tag != "O" for tags in (*found, *wanted) for tag in tags):
        return {}
    seqeval = library("seqeval.metrics", "seqeval")
    report: dict[str, Any] = seqeval.classification_report(wanted, found, output_dict=True, zero_division=0)
    types = list(report)[:-3]  # after the types come three means
    return {name: {ours: float(report[name][theirs]) for theirs, ours in PER_TYPE.items()} for name in types}


def checked(predicted: Tags, right: Tags) -> tuple[list[list[str]], list[list[str]]]:
    """Both as lists, as seqeval wants them; a DataError for sentences of unlike length, and for what is no such tag."""
    check_rows(predicted, right)
    for i, (tags, wanted) in enumerate(zip(predicted, right, strict=True)):
        if len(tags) != len(wanted):
            raise DataError(f"sentence {i + 1}: got {len(tags)} tags, expected {len(wanted)}, one for each word")
        wrong = [tag for tag in (*tags, *wanted) if not TAG.fullmatch(tag)]
        if wrong:
            raise DataError(f"sentence {i + 1}: got the tag {wrong[0]!r}, expected O, or B-, I-, E- or S- and a type")
    if not any(right):
        raise DataError("got no words to judge by, expected 1 or more")
    return [list(tags) for tags in predicted], [list(tags) for tags in right]
