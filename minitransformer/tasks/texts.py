"""Rows of text, or of two texts, as examples: what the tasks that read whole texts have in common."""

from collections.abc import Sequence
from typing import Any

import torch

from minitransformer.errors import DataError
from minitransformer.tasks.task import Example, Row, columns_row, pad
from minitransformer.text import Batch, Tokenizer


def text_row(given: Any) -> Row:
    """A row of a text, of a pair of texts (a tuple), or of columns."""
    if isinstance(given, str):
        return Row(text=given, where="a text")
    if isinstance(given, tuple) and len(given) == 2:
        return Row(text=given[0], pair=given[1], where="a pair of texts")
    return columns_row(given, "a text, a tuple of two texts")


def text_examples(
    tokenizer: Tokenizer, rows: Sequence[Row], targets: Sequence[Any], max_length: int | None
) -> list[Example]:
    """Each row's text, and its `pair` where the rows have one, cut to `max_length` tokens."""
    if not rows:
        return []
    texts = [row.text("text") for row in rows]
    paired = ["pair" in row for row in rows]
    if any(paired) and not all(paired):
        raise DataError(f"{rows[paired.index(False)].where}: no 'pair', which other rows have")
    pairs = [row.text("pair") for row in rows] if all(paired) else None
    examples = []
    for place, encoding in enumerate(tokenizer.encodings(texts, pairs)):
        if not encoding.ids:
            raise DataError(f"{rows[place].where}: the tokenizer finds no token in {texts[place]!r:.60}")
        inputs = tokenizer.cut(encoding, max_length)
        lost = len(encoding.ids) - len(inputs["input_ids"])
        examples.append(Example(place, inputs, targets[place], lost))
    return examples


def text_batch(tokenizer: Tokenizer, examples: Sequence[Example]) -> Batch:
    """input_ids and so on int [B T]; where the examples have targets, of one shape, these as labels [B ...]."""
    batch = pad(tokenizer, examples)
    if examples[0].target is not None:
        batch["labels"] = torch.tensor([example.target for example in examples])
    return batch
