"""Many small changes, each measured alone: copies of one example share a forward pass, and each has its own change."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minitransformer.lens.metric import Metric, value_of
from minitransformer.model import Output, Transformer, hooks
from minitransformer.model.heads import IGNORED
from minitransformer.model.points import Point
from minitransformer.model.transformer import LOGITS, TARGETS

Batch = Mapping[str, Tensor]
Change = Callable[[Tensor], Tensor]  # of a point's tensor, with the rows of one example
MOST_TOKENS = 2048  # in one pass: all copies' logits have to fit into memory


def changed_values(model: Transformer, batch: Batch, metric: Metric, point: str, changes: Sequence[Change]) -> Tensor:
    """The metric with each of these changes at a point, one at a time: [changes]. The batch has one row."""
    tokens = max(x.shape[-1] for name, x in batch.items() if name.endswith("input_ids") or name == "pixel_values")
    most = max(1, MOST_TOKENS // tokens)
    found: list[Tensor] = []
    for start in range(0, len(changes), most):
        some = changes[start : start + most]
        copies = {name: x.expand(len(some), *x.shape[1:]) for name, x in batch.items()}
        with hooks(model, [(point, partial(_change_each, some))]):
            output = model(**copies)
        found += [value_of(metric, row) for row in rows_of(model, output, copies, len(some))]
    return torch.stack([x.to("cpu", torch.float64) for x in found])


def _change_each(changes: Sequence[Change], x: Tensor, hook: Point) -> Tensor:
    """The first change in the first copy, the second in the second, …"""
    return torch.cat([change(part) for change, part in zip(changes, x.tensor_split(len(changes)), strict=True)])


def rows_of(model: Transformer, output: Output, batch: Batch, rows: int) -> list[Output]:
    """The output of each row of a batch, as if it had been alone: its loss, too."""
    found = []
    for i in range(rows):
        part = Output(**{field.name: _row(getattr(output, field.name), i, rows) for field in fields(output)})
        if output.loss is not None and model.head is not None:
            logits = {name: getattr(part, name) for name in LOGITS if getattr(part, name) is not None}
            targets = {name: batch[name][i : i + 1] for name in (*TARGETS, "attention_mask") if name in batch}
            total, count = model.head.loss(logits, targets)
            part.loss = total / count
        found.append(part)
    return found


def _row(x: Any, i: int, rows: int) -> Any:
    """One row of a field; of multiple choice, all its choices."""
    if isinstance(x, tuple):
        return tuple(_row(each, i, rows) for each in x)
    return None if x is None or x.ndim == 0 else x.tensor_split(rows)[i]


def real_tokens(batch: Batch, x: Tensor, *, of_decoder: bool) -> Tensor:
    """Which tokens of x, [B T ...], are no padding: bool [B T]. of_decoder: of one behind an encoder."""
    mask = batch.get("decoder_attention_mask" if of_decoder else "attention_mask")
    labels = batch.get("labels")
    if of_decoder and mask is None and "decoder_input_ids" not in batch and labels is not None and labels.ndim == 2:
        mask = labels != IGNORED  # it reads the labels: what is not judged there is padding
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask.flatten(0, -2) != 0


def without_padding(labels: Tensor, batch: Batch) -> Tensor:
    """Labels int [B T] of a causal language model, without those of padding, and of what follows on padding."""
    mask = batch.get("attention_mask")
    if mask is None:
        return labels
    labels = labels.masked_fill(mask == 0, IGNORED)
    labels[:, 1:] = labels[:, 1:].masked_fill(mask[:, :-1] == 0, IGNORED)
    return labels
