"""Which rows go into which step: shuffled, yet with texts of like length together, so that little is padding."""

import random
from collections.abc import Sequence

WINDOW = 50  # batches whose rows are sorted by length together


def batches(lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The rows' numbers, batch by batch, for one epoch; each row once. Same seed and epoch, same batches."""
    rng = random.Random(f"{seed}/{epoch}")
    rows = list(range(len(lengths)))
    rng.shuffle(rows)
    window = WINDOW * batch_size
    found: list[list[int]] = []
    for start in range(0, len(rows), window):
        by_length = sorted(rows[start : start + window], key=lengths.__getitem__)
        found += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    rng.shuffle(found)
    return found
