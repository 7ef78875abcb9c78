"""What is the same, and how a difference is told: never what a single number or word should have been."""

import math

import numpy as np
import pytest
import torch

from minitransformer.lessons.same import difference

ONES = torch.ones(2, 2)
SAME = [
    (1, 1),
    (1.0, 1),
    (torch.tensor(1.0000001), 1.0),
    (np.float32(0.5), 0.5),
    ([[1, 1], [1, 1]], ONES),
    (np.ones((2, 2)), ONES),
    (ONES.double().requires_grad_(), ONES),
    (ONES.half(), ONES),
    (torch.tensor([True, False]), torch.tensor([True, False])),
    (torch.tensor([math.nan, math.inf]), torch.tensor([math.nan, math.inf])),
    ((1, 2), [1, 2]),
    (torch.tensor([1, 2]), (1, 2)),
    (torch.Size([1, 2]), (1, 2)),
    (np.array([1, 2]), [1, 2]),
    (torch.ones(3, 2), tuple(torch.ones(3, 2))),
    (range(3, 6), {3, 4, 5}),
    ([5, 4, 3], {3, 4, 5}),
    (torch.tensor([3, 4, 5]), {3, 4, 5}),
    ({"a": 1, "b": (2, "c")}, {"b": (2, "c"), "a": 1}),
]
DIFFERENT = [
    (2.0, 1.0, "is 2, too large"),
    (0.5, 1.0, "is 0.5, too small"),
    (-1.0, 1.0, "is -1, too small"),
    (7, 8, "is 7, which is not it"),
    (math.nan, 1.0, "is nan, which is not it"),
    ("B", "b", "is 'B', which is not it"),
    ("b ", "b", "is 'b ', which is not it"),
    (1, "b", "is an int, expected a text"),
    (ONES[:1], ONES, "has the shape [1, 2], expected [2, 2]"),
    (ONES - torch.tensor([[0, 0], [0, 0.25]]), ONES, "is 0.75 at [1, 1], off by 0.25"),
    (ONES + torch.tensor([[0, 0.5], [0, 0]]), ONES, "is 1.5 at [0, 1], off by 0.5"),
    (ONES / 0, ONES, "is inf at [0, 0], which is not it"),
    (ONES, ONES > 0, "has numbers in it, expected True and False (x != 0 makes them of numbers)"),
    (ONES > 0, ONES, "has True and False in it, expected numbers"),
    (torch.tensor([True]), torch.tensor([False]), "is True at [0], which is not it"),
    (1j * ONES, ONES, "has complex numbers in it"),
    ("x", ONES, "is a str, expected numbers of shape [2, 2]"),
    ([ONES[0], ONES[1]], ONES, "is a list of tensors; torch.stack makes one of them"),
    ((1, 3), (1, 2), "at place 1 is 3, which is not it"),
    ((1,), (1, 2), "has not as many values as it should: 1"),
    (3, (1, 2), "is an int, expected several values in a tuple or list"),
    ({1, 2}, (1, 2), "is a set, expected several values in a tuple or list"),
    ([3, 4], {3, 4, 5}, "is not it: a value is missing, or one does not belong there"),
    ([3, 4, 5, 6], {3, 4, 5}, "is not it: a value is missing, or one does not belong there"),
    ([[3]], {3}, "is not it: a value is missing, or one does not belong there"),
    (3, {3}, "is an int, expected several values in a list"),
    ({"a": 1}, {"a": 1, "b": 2, "c": 3}, "has no 'b', nor 1 more"),
    ({"a": 1, "z": 2}, {"a": 1}, "has 'z', which does not belong there"),
    ({"a": 2}, {"a": 1}, "at 'a' is 2, which is not it"),
    ([1], {"a": 1}, "is a list, expected a dict"),
]


@pytest.mark.parametrize(("got", "expected"), SAME)
def test_the_same(got, expected):
    assert difference(got, expected, 1e-5) is None


@pytest.mark.parametrize(("got", "expected", "told"), DIFFERENT)
def test_what_differs(got, expected, told):
    assert difference(got, expected, 1e-5) == told


def test_the_tolerance_is_absolute_and_relative():
    assert difference(100.9, 100.0, 0.01) is None
    assert difference(101.1, 100.0, 0.01) == "is 101.1, too large"
    assert difference(0.009, 0.0, 0.01) is None
    assert difference(torch.tensor([0.011]), torch.tensor([0.0]), 0.01) == "is 0.011 at [0], off by 0.011"
