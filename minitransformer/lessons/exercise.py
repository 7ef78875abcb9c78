"""What an exercise is: what it asks, the right answer by the library's code, and the wrong ones that people give."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Cases = Mapping[str, tuple[Any, ...]]  # what a case is about -> the arguments


@dataclass(frozen=True)
class Wrong:
    """A wrong answer that is known, and what is said to those who give it."""

    diagnosis: str  # a sentence: "Your weights are those without the division by √E."
    answer: Callable[..., Any]  # as `Exercise.right`


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A question of a lesson. The answer is a function, which is tried on the cases, or, where there are none, a value.

    `right` and the wrong answers are functions: of a case's arguments, or of nothing, to give the value.
    """

    number: str  # "1.3": of lesson 1
    asks: str  # "attention(q, k, v): softmax(q kᵀ / √E) v"
    right: Callable[..., Any]
    cases: Callable[[], Cases] | None = None  # the same at each call
    wrong: tuple[Wrong, ...]
    hints: tuple[str, str, str]  # each says more than the one before
    stands: str  # where the library has it: "ops/by_hand.py, attention"
    tolerance: float = 1e-5  # of numbers, absolute and relative


@dataclass(frozen=True)
class Lesson:
    """A lesson: notebooks/1_one_head.ipynb, and its exercises in minitransformer/lessons/one_head.py."""

    number: int
    name: str  # "one_head"
    title: str

    @property
    def file(self) -> str:
        """The name of the files, without suffix."""
        return f"{self.number}_{self.name}"


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers of mean 0 and variance 1, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
