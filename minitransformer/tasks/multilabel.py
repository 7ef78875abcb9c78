"""Multi-label classification: none, one or several labels for each text, or for each pair of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from minitransformer.errors import DataError
from minitransformer.metrics import multilabel
from minitransformer.model import Transformer
from minitransformer.model.heads import SumAndCount
from minitransformer.tasks.task import Example, Kind, Row, label_number, logits_of
from minitransformer.tasks.texts import text_batch, text_examples, text_row
from minitransformer.text import Batch, Tokenizer

THRESHOLD = 0.5  # a label of this probability or more is chosen


@dataclass(frozen=True)
class Labels:
    """A text, and the labels that a model gives it."""

    text: str
    labels: tuple[str, ...]
    scores: dict[str, float]  # the probability of each label, of those not chosen, too

    def __str__(self) -> str:
        return f"{', '.join(self.labels) or '(none)'}  {self.text}"


def names_of(row: Row) -> list[str]:
    """The names in the column `labels`; there may be none."""
    names = row.get("labels")
    if not isinstance(names, list | tuple):
        shown = f"{names!r:.60}" if "labels" in row else f"not among the columns {', '.join(row) or '(none)'}"
        raise DataError(f"{row.where}: 'labels' is {shown}, expected a list of names, perhaps an empty one")
    return [Row(where=row.where, labels=name).name("labels") for name in names]


class Multilabel:
    """Rows: text, perhaps pair, and labels, a list of names, which may be empty."""

    kind: ClassVar = Kind(
        head="sequence-classification",
        metric="f1_micro",
        row_metric="subset_accuracy",
        inputs=("text",),
        targets=("labels",),
        more=("pair",),
        labels_in=names_of,
        labels_of=lambda rows: check_labels(sorted({name for row in rows for name in names_of(row)})),
        config={"problem_type": "multi_label_classification"},
        pipeline="text-classification",
        example='model.predict(["What a film!"])',
    )

    def __init__(self, tokenizer: Tokenizer, labels: Sequence[str], max_length: int | None) -> None:
        self.tokenizer, self.labels, self.max_length = tokenizer, check_labels(labels), max_length
        self.numbers = {label: i for i, label in enumerate(labels)}

    def row(self, given: Any) -> Row:
        """See `text_row`."""
        return text_row(given)

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each row; its target is 1 for each of the row's labels and 0 for the others."""
        wanted = [self._target(row) if targets else None for row in rows]
        return text_examples(self.tokenizer, rows, wanted, self.max_length)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids and so on int [B T]; labels float [B labels]."""
        return text_batch(self.tokenizer, examples)

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of rows times that of labels."""
        return torch.tensor(batch["labels"].numel())

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Binary cross-entropy of each label."""
        return model.loss(batch)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[list[float]]:
        """The probability of each label."""
        logits = logits_of(model, batch)  # [B labels]
        return torch.sigmoid(logits.float()).tolist()

    def answers(self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[list[float]]) -> list[Labels]:
        """The labels of each row."""
        answers = []
        for row, probabilities in zip(rows, decoded, strict=True):
            scores = dict(zip(self.labels, probabilities, strict=True))
            chosen = tuple(label for label, score in scores.items() if score >= THRESHOLD)
            answers.append(Labels(row["text"], chosen, scores))
        return answers

    def score(self, answers: Sequence[Labels], rows: Sequence[Row]) -> dict[str, float]:
        """F1 of the labels: see `metrics.multilabel`."""
        return multilabel([set(answer.labels) for answer in answers], [set(names_of(row)) for row in rows], self.labels)

    def _target(self, row: Row) -> list[float]:
        chosen = {label_number(self.numbers, name, row.where) for name in names_of(row)}
        return [float(number in chosen) for number in range(len(self.labels))]


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """These labels. A DataError for fewer than two, or for too many to be classes."""
    if not 2 <= len(labels) <= 1000:
        shown = ", ".join(labels[:5]) or "none"
        raise DataError(f"labels: got {len(labels)} ({shown}), expected 2 to 1000; classify tells two classes apart")
    return tuple(labels)
