"""Exact match and F1 of spans, worked out by hand from SQuAD's definition."""

import pytest

from minitransformer.errors import DataError
from minitransformer.metrics import normalised, spans


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat!", "cat"),
        ("an  apple,\na  pear and\tthe plum", "apple pear and plum"),
        ("U.S.A.", "usa"),  # punctuation goes before articles do
        ("a-b", "ab"),
        ("A.", ""),
        ("theatre analysis", "theatre analysis"),
        ("$5,000", "5000"),
        ("“the” Éa", "“ ” éa"),  # only ASCII's punctuation
        ("the", ""),
        ("北京。", "北京。"),
    ],
)
def test_normalised(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1, 1),
        ("the Denver Broncos.", ["Denver Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),  # precision 1, recall 1/2
        ("Broncos", ["Carolina Panthers", "Denver Broncos", "Broncos of Denver, Colorado"], 0, 2 / 3),
        ("Broncos", ["Denver Broncos", "broncos"], 1, 1),
        ("to be or not to be", ["to be"], 0, 2 * (2 / 6) * 1 / (2 / 6 + 1)),  # a word counts as often as in both
        ("be be", ["to be or not to be"], 0, 2 * 1 * (2 / 6) / (1 + 2 / 6)),
        ("Panthers", ["Denver Broncos"], 0, 0),
        ("", ["Denver Broncos"], 0, 0),
        ("", [], 1, 1),
        ("", [""], 1, 1),
        ("Denver", [], 0, 0),
        ("Denver", [""], 0, 0),
        ("the", [], 1, 1),  # nothing is left of it
        ("a", ["the"], 1, 1),
        ("", ["the", "Denver"], 0, 0),  # an answer of which nothing is left does not count beside another
    ],
)
def test_one_answer(answer, accepted, exact, f1):
    assert spans([answer], [accepted]) == pytest.approx({"exact_match": exact, "f1": f1})


def test_the_mean_is_over_rows():
    scores = spans(["Broncos", "1999", ""], [["Denver Broncos"], ["1999", "in 1999"], ["x"]])
    assert scores == pytest.approx({"exact_match": 1 / 3, "f1": (2 / 3 + 1) / 3})
    with pytest.raises(DataError, match="got 1 answers, expected 2"):
        spans(["a"], [["a"], ["b"]])
