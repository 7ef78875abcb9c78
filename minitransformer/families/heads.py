"""The heads that most families have. A family says what is its own in them; the rest is said here once."""

from collections.abc import Callable, Mapping
from typing import Any

from minitransformer.config import (
    Activation,
    ClassificationConfig,
    HeadConfig,
    LanguageModelConfig,
    QuestionAnsweringConfig,
    TokenClassificationConfig,
)
from minitransformer.families.fields import Raw, num_labels, number, optional_whole

Fields = Mapping[str, Any]  # of a ClassificationConfig


def usual_head(
    raw: Raw,
    head: str,
    *,
    language_model: Callable[[str], LanguageModelConfig],
    text: Fields,
    choice: Fields | None = None,
    token_dropout: float = 0.0,
    answer_dropout: float = 0.0,
    labels: int = 2,
) -> HeadConfig | None:
    """The config of a head, by its name; None for the base model.

    `language_model`: its config, by its task. `text`: how a classifier reads a whole text. `choice`: how multiple
    choice does, if otherwise. `labels`: how many there are where config.json names none.
    """
    match head:
        case "masked-lm" | "causal-lm" | "seq2seq-lm":
            return language_model(head)
        case "sequence-classification":
            return ClassificationConfig(task=head, num_labels=num_labels(raw, labels), **text)
        case "multiple-choice":
            return ClassificationConfig(task=head, num_labels=1, **(text if choice is None else choice))
        case "token-classification":
            return TokenClassificationConfig(num_labels=num_labels(raw, labels), dropout=token_dropout)
        case "question-answering":
            return QuestionAnsweringConfig(dropout=answer_dropout)
    return None


def two_layers(reads: str, transform: Activation, dropout: float) -> Fields:
    """A classifier with a dense layer before the last, and dropout before each."""
    return {"reads": reads, "transform": transform, "transform_dropout": dropout, "dropout": dropout}


def last_token(raw: Raw) -> Fields:
    """A decoder's classifier: the last token that is not padding has read all others."""
    return {"reads": "last_token", "bias": False, "token_id": optional_whole(raw, "pad_token_id")}


def decoder_dropout(raw: Raw) -> float:
    """The dropout before a decoder's classifier of tokens."""
    return number(raw, "classifier_dropout", number(raw, "hidden_dropout", 0.1))
