"""Text classification: one label for each text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.model import Transformer
from minitransformer.tasks.inference import collate, inference, lengths, text_batches
from minitransformer.text import Batch, Tokenizer

__all__ = [
    "Prediction",
    "Row",
    "accuracy",
    "check_head",
    "collate",
    "encode_labels",
    "lengths",
    "most_probable",
    "predict",
]


@dataclass(frozen=True)
class Row:
    """A text and the label it was given."""

    text: str
    label: str


@dataclass(frozen=True)
class Prediction:
    """A text, or an image's name, and the label that a model gives it."""

    text: str
    label: str
    score: float  # the label's probability


def encode_labels(rows: Sequence[Row], labels: Sequence[str]) -> Tensor:
    """The number of each row's label. -> int [B]."""
    numbers = {label: i for i, label in enumerate(labels)}
    return torch.tensor([numbers[row.label] for row in rows])


def check_head(task: str, labels: Sequence[str], raw: Mapping[str, Any]) -> None:
    """Raise an InputError unless a head (of a model with this config.json) gives one label of several."""
    if task not in ("sequence-classification", "image-classification", "image-classification-with-teacher"):
        raise InputError(
            f"predict: got a model with the head {task}, expected sequence-classification or image-classification; "
            f"fine-tune one, or load(name, head='sequence-classification')"
        )
    if len(labels) == 1 or raw.get("problem_type") not in (None, "single_label_classification"):
        raise InputError("predict: this head regresses, or gives several labels; read model(**batch).logits")


def predict(
    transformer: Transformer,
    tokenizer: Tokenizer,
    labels: Sequence[str],
    texts: Sequence[str],
    *,
    max_length: int | None,
    batch_size: int,
) -> list[Prediction]:
    """The most probable label of each text. Texts of like length share a batch; the order of the answer is theirs."""
    if not texts:
        return []
    found: dict[int, Prediction] = {}
    with inference(transformer):
        for places, batch in text_batches(tokenizer, texts, max_length=max_length, batch_size=batch_size):
            for i, (label, score) in zip(places, most_probable(transformer, batch, labels), strict=True):
                found[i] = Prediction(texts[i], label, score)
    return [found[i] for i in range(len(texts))]


def most_probable(transformer: Transformer, batch: Batch, labels: Sequence[str]) -> list[tuple[str, float]]:
    """The most probable label of each row of a batch, and its probability."""
    device = next(transformer.parameters()).device
    logits = transformer(**batch.to(device)).logits  # [B labels]
    scores, best = torch.softmax(logits.float(), -1).max(-1)  # [B]
    return [(labels[i], score) for i, score in zip(best.tolist(), scores.tolist(), strict=True)]


def accuracy(predictions: Sequence[Prediction], rows: Sequence[Row]) -> float:
    """The share of rows whose label was predicted."""
    right = sum(prediction.label == row.label for prediction, row in zip(predictions, rows, strict=True))
    return right / len(rows)
