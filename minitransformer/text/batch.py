"""Rows of token ids of different lengths, put together into tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from minitransformer.errors import TokenizerError


class Batch(dict[str, Tensor]):
    """Tensors by name, as a model takes them: ``model(**batch)``.

    ``truncated`` tells what was cut off: {row: number of tokens lost}, from the text and what is to be written for it.
    Empty when every text is there in full.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, truncated: Mapping[int, int] | None = None) -> None:
        super().__init__(tensors)
        self.truncated = dict(truncated or {})

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; this one stays where it is."""
        return Batch({name: tensor.to(device) for name, tensor in self.items()}, truncated=self.truncated)


def with_labels(batch: Batch, targets: Batch) -> Batch:
    """The batch, with the ids of `targets`, a row for each of its own, as its labels."""
    rows, labels = len(batch["input_ids"]), targets["input_ids"]
    if rows != len(labels):
        raise TokenizerError(f"got {rows} texts and {len(labels)} targets, expected a target for each text")
    lost = (batch.truncated, targets.truncated)
    truncated = {row: sum(side.get(row, 0) for side in lost) for row in sorted({*lost[0], *lost[1]})}
    return Batch({**batch, "labels": labels}, truncated=truncated)


def real_positions(lengths: Sequence[int], width: int, side: str) -> Tensor:
    """Where the tokens stand when rows of these lengths are padded to `width` on that side: bool [B T]."""
    places = torch.arange(width)  # [T]
    counts = torch.tensor(lengths)[:, None]  # [B 1]
    return places >= width - counts if side == "left" else places < counts  # [B T]


def scatter(rows: Sequence[Sequence[int]], real: Tensor, fill: int) -> Tensor:
    """The rows' numbers at the real positions, `fill` at the others: int64 [B T]."""
    tensor = torch.full(real.shape, fill)  # [B T]
    tensor[real] = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64)
    return tensor
