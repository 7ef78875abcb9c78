"""Regression: one number for each text, or for each pair of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from minitransformer.metrics import regression
from minitransformer.model import Transformer
from minitransformer.model.heads import SumAndCount
from minitransformer.tasks.task import Example, Kind, Row, logits_of
from minitransformer.tasks.texts import text_batch, text_examples, text_row
from minitransformer.text import Batch, Tokenizer


@dataclass(frozen=True)
class Estimate:
    """A text, and the number that a model gives it."""

    text: str
    value: float

    def __str__(self) -> str:
        return f"{self.value:8.4f}  {self.text}"


class Regress:
    """Rows: text, perhaps pair, and label, a number."""

    kind: ClassVar = Kind(
        head="sequence-classification",
        metric="pearson",
        row_metric="mae",
        inputs=("text",),
        targets=("label",),
        more=("pair",),
        outputs=1,
        config={"problem_type": "regression"},
        pipeline="text-classification",
        example='model.predict(["What a film!"])',
    )

    def __init__(self, tokenizer: Tokenizer, max_length: int | None) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length

    def row(self, given: Any) -> Row:
        """See `text_row`."""
        return text_row(given)

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each row; its target is the row's number."""
        wanted = [row.number("label") if targets else None for row in rows]
        return text_examples(self.tokenizer, rows, wanted, self.max_length)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids and so on int [B T]; labels float [B]."""
        return text_batch(self.tokenizer, examples)

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of rows."""
        return torch.tensor(len(batch["labels"]))

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Squared error: Σ (y - ŷ)²."""
        return model.loss(batch)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[float]:
        """The number of each row."""
        logits = logits_of(model, batch)  # [B 1]
        return logits.flatten().tolist()

    def answers(self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[float]) -> list[Estimate]:
        """The number of each row."""
        return [Estimate(row["text"], value) for row, value in zip(rows, decoded, strict=True)]

    def score(self, answers: Sequence[Estimate], rows: Sequence[Row]) -> dict[str, float]:
        """Correlations with the right numbers, and mean errors: see `metrics.regression`."""
        return regression([answer.value for answer in answers], [row.number("label") for row in rows])
