"""Which rows make up which step: shuffled, yet with texts of like length together, so that little is padding."""

import math
import random
from bisect import bisect_right
from collections.abc import Sequence

from minitransformer.errors import DataError
from minitransformer.finetune.recipe import Recipe

WINDOW = 50  # batches whose rows are sorted by length together


class Plan:
    """The steps of a run: a function of the examples' lengths and the recipe, so that a run can begin anywhere."""

    def __init__(self, lengths: Sequence[int], recipe: Recipe) -> None:
        if not lengths:
            raise DataError("rows: none gives anything to learn from, expected at least one that does")
        self.lengths, self.recipe = lengths, recipe
        self.starts = [0]  # each epoch's first step, and the step after the last epoch
        while self._goes_on():
            self.starts.append(self.starts[-1] + self._count(len(self.starts) - 1))
        last = self.starts[-1] - self.starts[-2]
        left_out = math.ceil(recipe.epochs) - recipe.epochs  # of the last epoch
        self.steps = recipe.steps or max(1, self.starts[-1] - math.floor(left_out * last))
        self._epoch, self._batches = -1, [[0]]

    def rows(self, step: int) -> list[int]:
        """The examples of a step (from 0), by their places."""
        epoch = self._epoch_of(step)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._of_epoch(epoch)
        return self._batches[step - self.starts[epoch]]

    def epochs_before(self, step: int) -> float:
        """How many epochs lie before a step (from 0)."""
        if step >= self.starts[-1]:
            return float(len(self.starts) - 1)
        epoch = self._epoch_of(step)
        return epoch + (step - self.starts[epoch]) / (self.starts[epoch + 1] - self.starts[epoch])

    def evaluates_after(self, step: int) -> bool:
        """Whether the model is judged after a step (from 0): every so many epochs, and at the end."""
        every = self.recipe.evaluate_every
        before, after = (math.floor(self.epochs_before(s) / every + 1e-9) for s in (step, step + 1))
        return after > before or step + 1 == self.steps

    def _goes_on(self) -> bool:
        """Whether there is an epoch after those whose steps are known."""
        if self.recipe.steps is not None:
            return self.starts[-1] < self.recipe.steps
        return len(self.starts) <= math.ceil(self.recipe.epochs)

    def _epoch_of(self, step: int) -> int:
        return bisect_right(self.starts, step) - 1

    def _count(self, epoch: int) -> int:
        if self.recipe.batch_tokens is None:
            return math.ceil(len(self.lengths) / self.recipe.batch_size)
        return len(self._of_epoch(epoch))

    def _of_epoch(self, epoch: int) -> list[list[int]]:
        return batches(
            self.lengths, self.recipe.batch_size, tokens=self.recipe.batch_tokens, seed=self.recipe.seed, epoch=epoch
        )


def batches(
    lengths: Sequence[int], batch_size: int, *, tokens: int | None = None, seed: int, epoch: int
) -> list[list[int]]:
    """The rows' places, batch by batch, for one epoch; each row once. Same seed and epoch, same batches.

    `tokens`: in place of `batch_size`; as many rows as have so many tokens when padded to the longest, or one.
    """
    rng = random.Random(f"{seed}/{epoch}")
    rows = list(range(len(lengths)))
    rng.shuffle(rows)
    if tokens is not None:
        batch_size = max(1, tokens * len(rows) // max(1, sum(lengths)))  # about as many rows, for the window
    window = WINDOW * batch_size
    found: list[list[int]] = []
    for start in range(0, len(rows), window):
        by_length = sorted(rows[start : start + window], key=lengths.__getitem__)
        if tokens is None:
            found += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
        else:
            found += by_tokens(by_length, lengths, tokens)
    rng.shuffle(found)
    return found


def by_tokens(by_length: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Rows from short to long, cut where one more would make a batch of more than `tokens`, padding included."""
    found: list[list[int]] = []
    for row in by_length:
        if found and (len(found[-1]) + 1) * lengths[row] <= tokens:
            found[-1].append(row)
        else:
            found.append([row])
    return found
