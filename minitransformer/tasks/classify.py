"""Text classification: one label for each text."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minitransformer.model import Transformer
from minitransformer.text import Batch, Tokenizer


@dataclass(frozen=True)
class Row:
    """A text and the label it was given."""

    text: str
    label: str


@dataclass(frozen=True)
class Prediction:
    """A text and the label that a model gives it."""

    text: str
    label: str
    score: float  # the label's probability


def lengths(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """How many tokens each text has, uncut."""
    return [len(encoding.ids) for encoding in tokenizer.encodings(texts)]


def collate(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> Batch:
    """The batch of these texts, cut to `max_length` tokens, padded to the longest."""
    return tokenizer(list(texts), truncation=max_length is not None, max_length=max_length)


def encode_labels(rows: Sequence[Row], labels: Sequence[str]) -> Tensor:
    """The number of each row's label. -> int [B]."""
    numbers = {label: i for i, label in enumerate(labels)}
    return torch.tensor([numbers[row.label] for row in rows])


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
    sizes = lengths(tokenizer, texts)
    cut = sum(size > max_length for size in sizes) if max_length is not None else 0
    if cut:
        warnings.warn(f"{cut} of {len(texts)} texts are longer than {max_length} tokens and were cut", stacklevel=3)
    by_length = sorted(range(len(texts)), key=sizes.__getitem__)
    device = next(transformer.parameters()).device
    training = transformer.training
    transformer.eval()
    found: dict[int, Prediction] = {}
    with torch.inference_mode():
        for start in range(0, len(by_length), batch_size):
            places = by_length[start : start + batch_size]
            batch = collate(tokenizer, [texts[i] for i in places], max_length).to(device)
            scores, best = torch.softmax(transformer(**batch).logits.float(), -1).max(-1)  # [B]
            found.update(
                {
                    i: Prediction(texts[i], labels[label], score)
                    for i, label, score in zip(places, best.tolist(), scores.tolist(), strict=True)
                }
            )
    transformer.train(training)
    return [found[i] for i in range(len(texts))]


def accuracy(predictions: Sequence[Prediction], rows: Sequence[Row]) -> float:
    """The share of rows whose label was predicted."""
    right = sum(prediction.label == row.label for prediction, row in zip(predictions, rows, strict=True))
    return right / len(rows)
