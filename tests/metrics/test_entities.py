"""Entities are counted as seqeval counts them, and as a few lines written for these tests do."""

import random
import sys

import pytest
from seqeval.metrics import accuracy_score, classification_report, f1_score, precision_score, recall_score
from seqeval.scheme import IOB2, IOBES

from minitransformer.errors import DataError, DependencyError
from minitransformer.metrics import entities, per_type

TAGS = ["O", "O", "O", "B-PER", "I-PER", "B-geo-loc", "I-geo-loc", "I-LOC", "B-LOC", "B", "I"]
IOBES_TAGS = ["O", "O", "B-PER", "I-PER", "E-PER", "S-PER", "S-LOC", "B-LOC", "E-LOC"]


def drawn(tags, seed, sentences=30):
    rng = random.Random(seed)
    right = [[rng.choice(tags) for _ in range(rng.randrange(0 if i else 1, 9))] for i in range(sentences)]
    return [[tag if rng.random() < 0.7 else rng.choice(tags) for tag in row] for row in right], right


def chunks(sentences):
    """Of tags in IOB: (sentence, first word, last word, type), by the rule of CoNLL-2000."""
    found = set()
    for s, tags in enumerate(sentences):
        kinds = [None if tag == "O" else tag[2:] for tag in tags]
        starts = [
            i for i, tag in enumerate(tags)
            if tag != "O" and (tag[0] == "B" or i == 0 or tags[i - 1] == "O" or kinds[i] != kinds[i - 1])
        ]  # fmt: skip
        for i in starts:
            end = i
            while end + 1 < len(tags) and end + 1 not in starts and kinds[end + 1] == kinds[i]:
                end += 1
            found.add((s, i, end, kinds[i]))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_entities_of_any_tags(seed):
    predicted, right = drawn(TAGS, seed)
    scores = entities(predicted, right)
    found, wanted = chunks(predicted), chunks(right)
    hits = len(found & wanted)
    assert scores["precision"] == pytest.approx(hits / len(found))
    assert scores["recall"] == pytest.approx(hits / len(wanted))
    assert scores["f1"] == pytest.approx(2 * hits / (len(found) + len(wanted)))
    assert scores["f1"] == pytest.approx(f1_score(right, predicted))
    for name, theirs in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        strict = theirs(right, predicted, mode="strict", scheme=IOB2)
        assert scores[f"strict_{name}"] == pytest.approx(strict) != scores[name]
    assert scores["accuracy"] == pytest.approx(accuracy_score(right, predicted))
    report = classification_report(right, predicted, output_dict=True)
    for kind, figures in per_type(predicted, right).items():
        assert list(figures.values()) == pytest.approx(list(report[kind].values()))
        assert figures["entities"] == sum((kind if kind != "_" else "") == entity[3] for entity in wanted)
    assert set(per_type(predicted, right)) == {"PER", "LOC", "geo-loc", "_"}


@pytest.mark.parametrize("seed", range(3))
def test_tags_with_ends_and_singles(seed):
    predicted, right = drawn(IOBES_TAGS, seed)
    scores = entities(predicted, right)
    assert scores["f1"] == pytest.approx(f1_score(right, predicted))
    assert scores["strict_f1"] == pytest.approx(f1_score(right, predicted, mode="strict", scheme=IOBES))


def test_an_inside_without_a_beginning_is_an_entity_but_not_a_strict_one():
    right, predicted = [["B-PER", "I-PER", "O"]], [["I-PER", "I-PER", "O"]]
    scores = entities(predicted, right)
    assert scores == {
        "precision": 1, "recall": 1, "f1": 1, "strict_precision": 0, "strict_recall": 0, "strict_f1": 0,
        "accuracy": pytest.approx(2 / 3),
    }  # fmt: skip


def test_a_half_found_entity_counts_nothing():
    right = [["B-PER", "I-PER", "O", "B-LOC"]]
    assert entities([["B-PER", "O", "O", "B-LOC"]], right)["f1"] == 0.5
    assert entities([["B-LOC", "I-LOC", "O", "B-LOC"]], right)["f1"] == 0.5
    assert entities([["B-PER", "I-LOC", "O", "B-LOC"]], right)["precision"] == pytest.approx(1 / 3)


def test_sentences_without_entities_and_without_words():
    nothing = [["O", "O"], []]
    assert entities(nothing, nothing) == {
        "precision": 0, "recall": 0, "f1": 0, "strict_precision": 0, "strict_recall": 0, "strict_f1": 0, "accuracy": 1,
    }  # fmt: skip
    assert per_type(nothing, nothing) == {}
    assert entities([["O", "B-X"], []], nothing)["precision"] == 0
    assert entities((("B-X",),), (("B-X",),))["f1"] == 1
    assert per_type([["O"]], [["B-X"]]) == {"X": {"precision": 0, "recall": 0, "f1": 0, "entities": 1}}


def test_an_entity_ends_with_its_sentence():
    split, right = [["B-X"], ["I-X"]], [["B-X"], ["B-X"]]
    assert entities(split, right)["f1"] == 1


@pytest.mark.parametrize(
    ("predicted", "right", "message"),
    [
        ([["O"]], [["NOUN"]], "sentence 1: got the tag 'NOUN', expected O, or B-"),
        ([["O"], [""]], [["O"], ["O"]], "sentence 2: got the tag ''"),
        ([["OTHER"]], [["O"]], "got the tag 'OTHER'"),
        ([["O"]], [["O", "O"]], "sentence 1: got 1 tags, expected 2"),
        ([["O"]], [], "got 1 answers, expected 0"),
        ([[]], [[]], "got no words"),
    ],
)
def test_what_is_no_tag_is_named(predicted, right, message):
    for judge in (entities, per_type):
        with pytest.raises(DataError, match=message):
            judge(predicted, right)


def test_without_seqeval(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqeval.metrics.sequence_labeling", None)
    with pytest.raises(DependencyError, match="seqeval is not installed; pip install"):
        entities([["O"]], [["O"]])
