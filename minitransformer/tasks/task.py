"""What every task is made of: rows of data, examples for the model, and what a task can do with them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from minitransformer.errors import DataError, InputError
from minitransformer.model import Transformer
from minitransformer.model.heads import IGNORED, SumAndCount
from minitransformer.ops import BOOKS
from minitransformer.text import Batch, Tokenizer

HALF = re.compile("[\ud800-\udfff]")  # JSON can write these, and no file can


class Row(dict[str, Any]):
    """One row of data: its columns by name, Row(text="What a film!", label="positive"), and where it was read."""

    def __init__(self, columns: Mapping[str, Any] | None = None, *, where: str = "a row", **more: Any) -> None:
        super().__init__(columns or {}, **more)
        self.where = where  # "reviews.csv, line 12", for messages

    def text(self, name: str) -> str:
        """The text in a column; a DataError where there is none, or an empty one."""
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{self.where}: {name!r} is {self._shown(name)}, expected a text")
        return value

    def number(self, name: str) -> float:
        """The number in a column."""
        value = self.get(name)
        try:
            if isinstance(value, bool) or value is None:
                raise ValueError
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise DataError(f"{self.where}: {name!r} is {self._shown(name)}, expected a number") from None
        if number != number or abs(number) == float("inf"):
            raise DataError(f"{self.where}: {name!r} is {number}, expected a finite number")
        return number

    def name(self, column: str) -> str:
        """The name of a class in a column: a text, or a whole number (as a text)."""
        value = self.get(column)
        if isinstance(value, bool | float | dict | list) or value is None or not 0 < len(str(value).strip()) <= 1000:
            raise DataError(f"{self.where}: {column!r} is {self._shown(column)}, expected the name of a class")
        return self._whole(column, str(value).strip())

    def texts(self, name: str) -> list[str]:
        """The list of texts in a column."""
        value = self.get(name)
        if not isinstance(value, list | tuple) or not value or not all(isinstance(text, str) for text in value):
            raise DataError(f"{self.where}: {name!r} is {self._shown(name)}, expected a list of texts")
        return [self._whole(name, text) for text in value]

    def _whole(self, name: str, text: str) -> str:
        if HALF.search(text):
            raise DataError(f"{self.where}: {name!r} is {text!r:.60}, which has half of a character: no Unicode text")
        return text

    def _shown(self, name: str) -> str:
        if name in self:
            return f"{self[name]!r:.60}"
        return f"not among the columns {', '.join(map(str, self)) or '(none)'}"


def columns_row(given: Any, expected: str) -> Row:
    """A row of columns; an InputError, which says what else was expected, where they are none."""
    if not isinstance(given, dict):
        raise InputError(
            f"got {given!r:.60}, expected {expected}, or a dict of columns (on the command line: --data FILE, or JSON)"
        )
    return given if isinstance(given, Row) else Row(given)


@dataclass(frozen=True)
class Example:
    """What the model reads at once: a row or, where a row is too long for it, one window of it."""

    row: int  # the place of its row among those that were encoded
    inputs: Mapping[str, Sequence[int]]  # input_ids, and what goes with them
    target: Any = None  # what is to be learned, as the task's `collate` understands it
    lost: int = 0  # tokens that were cut off
    extra: Any = None  # what else the task keeps of it
    written: int = 0  # tokens that a decoder behind an encoder is to write
    texts: int = 1  # side by side, none longer than `inputs`: the choices of a row

    def __len__(self) -> int:
        """How many tokens it has: examples of like length share a batch, which is padded to the longest."""
        return len(self.inputs.get("input_ids", ())) * self.texts + self.written


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is known of a task before there are rows and a model."""

    head: str  # which head a model needs for it
    metric: str  # which of the scores says what is best
    row_metric: str  # which of them says how good the answer to a single row is
    inputs: tuple[str, ...]  # the columns that the model reads
    targets: tuple[str, ...] = ()  # those that it is to learn
    more: tuple[str, ...] = ()  # those that may be there besides
    labels_in: Callable[[Row], list[str]] | None = None  # the labels of a row, where it has some
    labels_of: Callable[[Sequence[Row]], tuple[str, ...]] | None = None  # those of all rows: what the head tells apart
    outputs: int | None = None  # of a head whose outputs have no names
    options: tuple[str, ...] = ()  # what a recipe can say of it, and not of every task
    config: Mapping[str, Any] = field(default_factory=dict)  # what config.json says of the head
    added_tokens: tuple[str, ...] = ()  # tokens that its rows need and that most models do not have
    usual_length: int | None = None  # tokens of a text, unless the user wants more or fewer
    documents: bool = False  # whether a row is a whole document, read in blocks
    learned: str = ""  # what there is to learn of a row, where that can be cut off: "words"
    pipeline: str  # what the hub calls the task
    example: str  # how a model is used for it, in Python

    @property
    def has_classes(self) -> bool:
        """Whether there are classes that could count more or less than others."""
        return "class_weights" in self.options


class Task(Protocol):
    """How rows become batches, what the loss is, what the model's answer means, and how good the answers are.

    A task of your own is a class with these methods.
    """

    kind: ClassVar[Kind]

    def row(self, given: Any) -> Row:
        """A row of what a user gives `predict`: a text, a pair of texts, a mapping of columns."""
        ...

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """The examples of these rows; without `targets`, rows need not have labels. A DataError names the row."""
        ...

    def collate(self, examples: Sequence[Example]) -> Mapping[str, Tensor]:
        """The batch of these examples, each tensor [B ...]; with labels, where the examples have targets."""
        ...

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How much a batch's loss is divided by; of the parts of a batch, the sum of theirs."""
        ...

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """The sum of the batch's losses, and `count`."""
        ...

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[Any]:
        """What the model says to each example of a batch."""
        ...

    def answers(self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[Any]) -> list[Any]:
        """The answer to each row, from what was decoded of its examples."""
        ...

    def score(self, answers: Sequence[Any], rows: Sequence[Row]) -> dict[str, float]:
        """How good the answers are: each metric's name and value."""
        ...


@dataclass(frozen=True)
class Criterion:
    """Cross-entropy as a run wants it: classes that count more or less than others, labels that are not quite sure."""

    weights: Tensor | None = None  # [classes]
    label_smoothing: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor, ignore_index: int = IGNORED) -> SumAndCount:
        """See `by_hand.cross_entropy`."""
        weights = None if self.weights is None else self.weights.to(logits)
        return BOOKS["fused"].cross_entropy(
            logits, labels, ignore_index, weights=weights, label_smoothing=self.label_smoothing
        )

    def count(self, labels: Tensor) -> Tensor:
        """How much these labels count: int [...] -> a number."""
        judged = labels[labels != IGNORED]
        return torch.tensor(len(judged)) if self.weights is None else self.weights.to(judged.device)[judged].sum()


def pad(tokenizer: Tokenizer, examples: Sequence[Example]) -> Batch:
    """The inputs of these examples as a batch, padded on the right, whatever the tokenizer says.

    On the left, padding would move a text's positions, and its first token.
    """
    return tokenizer.pad([example.inputs for example in examples], padding_side="right")


def logits_of(model: Transformer, batch: Mapping[str, Tensor]) -> Tensor:
    """The logits of a batch, whose labels are left out."""
    return model(**{name: x for name, x in batch.items() if name != "labels"}).logits


def token_labels(examples: Sequence[Example], width: int) -> Tensor:
    """The targets of these examples, a label for each token, -100 for padding on the right: int [B width]."""
    labels = torch.full((len(examples), width), IGNORED)
    for i, example in enumerate(examples):
        labels[i, : len(example.target)] = torch.tensor(example.target)
    return labels


def label_number(numbers: Mapping[str, int], label: str, where: str) -> int:
    """The number of a label; a DataError that names the row where it is not one of those to be learned."""
    if label not in numbers:
        raise DataError(f"{where}: unknown label {label!r}, expected one of {', '.join(list(numbers)[:20])}")
    return numbers[label]
