"""Running a model over many inputs, a batch at a time."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitransformer.config import TokenEmbeddingConfig
from minitransformer.errors import InputError
from minitransformer.model import Transformer
from minitransformer.model.evaluation import evaluation
from minitransformer.tasks.task import Example, Row, Task
from minitransformer.text import Batch, Tokenizer


@contextmanager
def inference(transformer: Transformer) -> Iterator[None]:
    """No dropout and no gradients inside; afterwards dropout is as it was."""
    with evaluation(transformer), torch.no_grad():
        yield


def token_limit(transformer: Transformer, tokenizer: Tokenizer | None, override: int | None = None) -> int | None:
    """How many tokens a model reads; None if there is no end. `override`: in place of the tokenizer's limit."""
    embed = transformer.config.embed
    positions = embed.max_length if isinstance(embed, TokenEmbeddingConfig) else None
    own = tokenizer.model_max_length if tokenizer is not None else None
    return min((limit for limit in (positions, override or own) if limit is not None), default=None)


def check_batch_size(batch_size: int) -> None:
    """Raise an InputError unless there is something in a batch."""
    if batch_size < 1:
        raise InputError(f"batch_size: got {batch_size}, expected 1 or more")


def predict(transformer: Transformer, task: Task, rows: Sequence[Row], *, batch_size: int) -> list[Any]:
    """The model's answer to each row, in their order."""
    check_batch_size(batch_size)
    examples = task.encode(rows, targets=False)
    cut = len({example.row for example in examples if example.lost})
    if cut:
        warnings.warn(f"{cut} of {len(rows)} inputs are longer than the model reads and were cut", stacklevel=3)
    return task.answers(rows, examples, read(transformer, task, examples, batch_size=batch_size).decoded)


@dataclass(frozen=True)
class Reading:
    """What a model made of some examples."""

    decoded: list[Any]  # of each example
    loss: float  # the sum over those that have targets
    count: float  # how much that was


def read(transformer: Transformer, task: Task, examples: Sequence[Example], *, batch_size: int) -> Reading:
    """Show the model each example, with others of like length, and decode what it says."""
    decoded: list[Any] = [None] * len(examples)
    total, count = 0.0, 0.0
    with inference(transformer):
        for places, batch in batches_by_length(transformer, task, examples, batch_size):
            if examples[places[0]].target is not None:
                losses, counted = task.loss(transformer, batch)
                total, count = total + losses.item(), count + counted.item()
            for place, found in zip(places, task.decode(transformer, batch), strict=True):
                decoded[place] = found
    return Reading(decoded, total, count)


def scores(
    task: Task, rows: Sequence[Row], examples: Sequence[Example], reading: Reading
) -> tuple[list[Any], dict[str, float]]:
    """The answer to each row, and how good they are: the mean loss, and the task's own scores."""
    answers = task.answers(rows, examples, reading.decoded)
    return answers, {"loss": reading.loss / (reading.count or 1), **task.score(answers, rows)}


def batches_by_length(
    transformer: Transformer, task: Task, examples: Sequence[Example], batch_size: int
) -> Iterator[tuple[list[int], Mapping[str, Tensor]]]:
    """Examples of like length together, so that little is padding; with each batch, where its examples stood."""
    device = next(transformer.parameters()).device
    by_length = sorted(range(len(examples)), key=lambda place: len(examples[place]))
    for start in range(0, len(examples), batch_size):
        places = by_length[start : start + batch_size]
        batch = task.collate([examples[place] for place in places])
        yield places, {name: x.to(device) for name, x in batch.items()}


def text_batches(
    tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int | None, batch_size: int
) -> Iterator[tuple[list[int], Batch]]:
    """The texts in batches of like length, padded on the right; with each batch, where its texts stood."""
    check_batch_size(batch_size)
    sizes = [len(encoding.ids) for encoding in tokenizer.encodings(texts)]
    if 0 in sizes:
        raise InputError(f"texts: got no token in text {sizes.index(0)}, expected at least one")
    cut = sum(size > max_length for size in sizes) if max_length is not None else 0
    if cut:
        warnings.warn(f"{cut} of {len(texts)} texts are longer than {max_length} tokens and were cut", stacklevel=4)
    by_length = sorted(range(len(texts)), key=sizes.__getitem__)
    for start in range(0, len(texts), batch_size):
        places = by_length[start : start + batch_size]
        part = [texts[i] for i in places]
        yield (
            places,
            tokenizer(part, truncation=max_length is not None, max_length=max_length, padding_side="right"),
        )
