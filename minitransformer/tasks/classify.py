"""Text classification: one label for each text, or for each pair of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from minitransformer.errors import DataError
from minitransformer.metrics import classification
from minitransformer.model import Transformer
from minitransformer.model.heads import SumAndCount
from minitransformer.tasks.task import Criterion, Example, Kind, Row, label_number, logits_of
from minitransformer.tasks.texts import text_batch, text_examples, text_row
from minitransformer.text import Batch, Tokenizer


@dataclass(frozen=True)
class Prediction:
    """A text, or an image's name, and the label that a model gives it."""

    text: str
    label: str
    score: float  # the label's probability

    def __str__(self) -> str:
        return f"{self.label:<12} {self.score:6.1%}  {self.text}"


def own_label(row: Row) -> list[str]:
    """The one label of a row."""
    return [row.name("label")]


def own_labels(rows: Sequence[Row]) -> tuple[str, ...]:
    """The labels of these rows, sorted. A DataError for fewer than two, or for too many to be classes."""
    names = [row.name("label") for row in rows]
    found = tuple(sorted(set(names)))
    if len(found) < 2:
        raise DataError(f"{rows[0].where}: all {len(names)} rows have the label {found[0]!r}; nothing to tell apart")
    if len(found) > 1000 or len(found) * 2 > len(names):
        raise DataError(
            f"{rows[0].where}: {names[0]!r:.60} and so on, {len(found)} different labels in {len(names)} rows; is this "
            f"the right column?"
        )
    return found


class Classify:
    """Rows: text, perhaps pair, and label, the name of a class."""

    kind: ClassVar = Kind(
        head="sequence-classification",
        metric="accuracy",
        row_metric="accuracy",
        inputs=("text",),
        targets=("label",),
        more=("pair",),
        labels_in=own_label,
        labels_of=own_labels,
        options=("label_smoothing", "class_weights"),
        config={"problem_type": "single_label_classification"},
        pipeline="text-classification",
        example='model.predict(["What a film!"])',
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_length: int | None,
        criterion: Criterion = Criterion(),  # noqa: B008, it is frozen
    ) -> None:
        self.tokenizer, self.labels, self.max_length, self.criterion = tokenizer, tuple(labels), max_length, criterion
        self.numbers = {label: i for i, label in enumerate(labels)}

    def row(self, given: Any) -> Row:
        """See `text_row`."""
        return text_row(given)

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each row; its target is the label's number."""
        wanted = [label_number(self.numbers, row.name("label"), row.where) if targets else None for row in rows]
        return text_examples(self.tokenizer, rows, wanted, self.max_length)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids and so on int [B T]; labels int [B]."""
        return text_batch(self.tokenizer, examples)

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of rows, or the sum of their labels' weights."""
        return self.criterion.count(batch["labels"])

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Cross-entropy."""
        return model.loss(batch, self.criterion)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[tuple[str, float]]:
        """The most probable label of each row, and its probability."""
        return most_probable(model, batch, self.labels)

    def answers(
        self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[tuple[str, float]]
    ) -> list[Prediction]:
        """The label of each row."""
        return [Prediction(row["text"], *found) for row, found in zip(rows, decoded, strict=True)]

    def score(self, answers: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Accuracy, and what else `metrics.classification` knows."""
        return classification([a.label for a in answers], [row.name("label") for row in rows], self.labels)


def most_probable(model: Transformer, batch: Mapping[str, Tensor], labels: Sequence[str]) -> list[tuple[str, float]]:
    """The most probable of these labels for each row of a batch, and its probability."""
    logits = logits_of(model, batch)  # [B labels]
    scores, best = torch.softmax(logits.float(), -1).max(-1)  # [B]
    return [(labels[i], score) for i, score in zip(best.tolist(), scores.tolist(), strict=True)]
