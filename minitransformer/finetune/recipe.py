"""The numbers of a run, and the schedule they make. Imports no torch."""

from dataclasses import dataclass

from minitransformer.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. A run is a function of weights, rows, recipe and step alone."""

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 5e-5  # the highest, reached after the warm-up
    warmup: float = 0.1  # the share of all steps in which the rate rises
    weight_decay: float = 0.01  # on matrices; not on biases and norms
    max_grad_norm: float = 1.0
    max_length: int | None = None  # tokens kept of each text; None: as many as the model takes
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            _check(name, getattr(self, name), "1 or more", getattr(self, name) >= 1)
        for name in ("learning_rate", "max_grad_norm"):
            _check(name, getattr(self, name), "above 0", 0 < getattr(self, name) < float("inf"))
        _check("warmup", self.warmup, "from 0 to 1", 0 <= self.warmup <= 1)
        _check("weight_decay", self.weight_decay, "0 or more", 0 <= self.weight_decay < float("inf"))
        _check("max_length", self.max_length, "3 or more", self.max_length is None or self.max_length >= 3)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """The rate at a step (from 0): up in a straight line during the warm-up, then down in one, to 0 after the last."""
    warmup = round(recipe.warmup * steps)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * (steps - step) / (steps - warmup)


def _check(name: str, value: object, expected: str, right: bool) -> None:
    if not right:
        raise DataError(f"{name}: got {value!r}, expected {expected}")
