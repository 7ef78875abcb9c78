"""Multiple choice: which of several texts goes with a prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from minitransformer.errors import DataError
from minitransformer.metrics import classification
from minitransformer.model import Transformer
from minitransformer.model.heads import SumAndCount
from minitransformer.tasks.task import Criterion, Example, Kind, Row, columns_row, logits_of
from minitransformer.text import Batch, Tokenizer


@dataclass(frozen=True)
class Chosen:
    """A prompt, and the choice that a model takes."""

    prompt: str
    choice: str
    index: int  # its place among the choices, from 0
    score: float  # its probability

    def __str__(self) -> str:
        return f"{self.index}  {self.score:6.1%}  {self.choice}"


class Choice:
    """Rows: prompt, choices, a list of texts, and label, the place of the right one, from 0."""

    kind: ClassVar = Kind(
        head="multiple-choice",
        metric="accuracy",
        row_metric="accuracy",
        inputs=("prompt", "choices"),
        targets=("label",),
        labels_in=lambda row: [str(right_choice(row))],
        options=("label_smoothing",),
        pipeline="multiple-choice",
        example='model.predict([("It rains.", ["Get wet.", "Get an ice."])])',
    )

    def __init__(self, tokenizer: Tokenizer, max_length: int | None, *, label_smoothing: float = 0.0) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.criterion = Criterion(label_smoothing=label_smoothing)

    def row(self, given: Any) -> Row:
        """A row of a prompt and its choices (a tuple), or of columns."""
        if isinstance(given, tuple) and len(given) == 2:
            return Row(prompt=given[0], choices=given[1], where="a prompt and its choices")
        return columns_row(given, "a tuple of a prompt and a list of choices")

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each row; its target is the place of the right choice."""
        found: list[Example] = []
        for place, row in enumerate(rows):
            prompt, choices = row.text("prompt"), row.texts("choices")
            if len(choices) != len(rows[0]["choices"]) or len(choices) < 2:
                expected = f"{len(rows[0]['choices'])}, as in {rows[0].where}" if len(choices) > 1 else "at least 2"
                raise DataError(f"{row.where}: it has {len(choices)} 'choices', expected {expected}")
            target = right_choice(row) if targets else None
            encodings = self.tokenizer.encodings([prompt] * len(choices), choices)
            read = [self.tokenizer.cut(encoding, self.max_length) for encoding in encodings]
            lost = sum(len(encoding.ids) for encoding in encodings) - sum(len(one["input_ids"]) for one in read)
            longest = max(read, key=lambda one: len(one["input_ids"]))  # with which others it shares a batch
            found.append(Example(place, longest, target, lost, extra=read, texts=len(choices)))
        return found

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids and so on int [B choices T]; labels int [B]."""
        batch = self.tokenizer.pad([one for example in examples for one in example.extra], padding_side="right")
        batch = Batch({name: x.unflatten(0, (len(examples), -1)) for name, x in batch.items()})  # [B choices T]
        if examples[0].target is not None:
            batch["labels"] = torch.tensor([example.target for example in examples])
        return batch

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of rows."""
        return self.criterion.count(batch["labels"])

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Cross-entropy over a row's choices."""
        return model.loss(batch, self.criterion)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[tuple[int, float]]:
        """The most probable choice of each row, and its probability."""
        logits = logits_of(model, batch)  # [B choices]
        scores, best = torch.softmax(logits.float(), -1).max(-1)  # [B]
        return list(zip(best.tolist(), scores.tolist(), strict=True))

    def answers(
        self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[tuple[int, float]]
    ) -> list[Chosen]:
        """The choice for each row."""
        return [
            Chosen(row["prompt"], row["choices"][index], index, score)
            for row, (index, score) in zip(rows, decoded, strict=True)
        ]

    def score(self, answers: Sequence[Chosen], rows: Sequence[Row]) -> dict[str, float]:
        """Accuracy."""
        places = [str(place) for place in range(max(len(row["choices"]) for row in rows))]
        right = [str(right_choice(row)) for row in rows]
        scores = classification([str(answer.index) for answer in answers], right, places)
        return {"accuracy": scores["accuracy"]}  # the choices of different rows are no classes: no F1 for each


def right_choice(row: Row) -> int:
    """The place of the right choice; a DataError where no choice has it."""
    label, count = row.number("label"), len(row.texts("choices"))
    if label not in range(count):
        raise DataError(
            f"{row.where}: 'label' is {row['label']!r:.60}, expected the place of a choice, 0 to {count - 1}"
        )
    return int(label)
