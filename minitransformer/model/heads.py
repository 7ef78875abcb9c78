"""What a Transformer's output is read for: one small class for each head.

A head turns `States` into named logits, and knows its loss as (sum, count): the sum over everything that was judged,
and how much that was. The mean is sum / count; only so do micro-batches of unequal size add up to the whole batch.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from minitransformer.config import (
    HeadConfig,
    LanguageModelConfig,
    MultipleChoiceConfig,
    PretrainingConfig,
    QuestionAnsweringConfig,
    SequenceClassificationConfig,
    TokenClassificationConfig,
    TransformerConfig,
)
from minitransformer.errors import InputError
from minitransformer.modules import LayerNorm
from minitransformer.ops import BOOKS, Book

IGNORED = -100  # the label of what is not judged

Logits = dict[str, Tensor]
SumAndCount = tuple[Tensor, Tensor]


class States(NamedTuple):
    """What a head may read."""

    hidden: Tensor  # [B T D], the last stack's output
    pooled: Tensor | None  # [B D], the pooler's output
    table: Tensor  # [V D], the token embedding's weight, for tied heads
    ids: Tensor  # [B T], the tokens that `hidden` stands for
    attention_mask: Tensor | None  # [B T], 1 for a token and 0 for padding
    choices: int  # texts for each question; 1 but for multiple choice


class LanguageModelProjection(nn.Module):
    """(norm(activation(dense(x))), then) x · tableᵀ (+ bias): a logit for each token. [B T D] -> [B T V]."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: LanguageModelConfig, d_model: int, vocab_size: int) -> None:
        super().__init__()
        self.activation = config.transform
        self.dense = nn.Linear(d_model, d_model) if config.transform else None
        self.norm = LayerNorm(d_model, config.norm_eps) if config.transform else None
        self.weight = None if config.tied else nn.Parameter(torch.empty(vocab_size, d_model))
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if config.bias else None

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """x [B T D], table [V D] (used when the head has no weight of its own) -> [B T V]."""
        if self.activation is not None and self.dense is not None and self.norm is not None:
            x = self.norm(getattr(self.book, self.activation)(self.dense(x)))
        return nn.functional.linear(x, table if self.weight is None else self.weight, self.bias)


class LanguageModel(nn.Module):
    """Which token stands here (masked-lm, seq2seq-lm), or comes next (causal-lm)."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: LanguageModelConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.shift = 1 if config.task == "causal-lm" else 0
        vocab_size = (model.target_embed or model.embed).vocab_size
        self.lm = LanguageModelProjection(config, model.embed.d_model, vocab_size)

    def forward(self, states: States) -> Logits:
        """-> logits [B T V]."""
        return {"logits": self.lm(states.hidden, states.table)}

    def loss(self, logits: Logits, targets: Mapping[str, Tensor]) -> SumAndCount:
        """targets: labels int [B T], -100 where nothing is judged; for causal-lm they are the input_ids themselves."""
        scores = logits["logits"]  # [B T V]
        labels = _target(targets, "labels", scores.shape[:2], scores.shape[2])
        kept = scores.shape[1] - self.shift  # label t + shift belongs to logits t
        return self.book.cross_entropy(scores[:, :kept].flatten(0, 1), labels[:, self.shift :].flatten())


class Pretraining(nn.Module):
    """BERT's two heads: masked tokens, and whether sentence B follows sentence A. Devlin et al. 2018, section 3.1."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: PretrainingConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.lm = LanguageModelProjection(config.lm, model.embed.d_model, model.embed.vocab_size)
        self.nsp = nn.Linear(model.embed.d_model, 2)

    def forward(self, states: States) -> Logits:
        """-> prediction_logits [B T V], seq_relationship_logits [B 2] (0: B follows A)."""
        return {
            "prediction_logits": self.lm(states.hidden, states.table),
            "seq_relationship_logits": self.nsp(states.pooled),
        }

    def loss(self, logits: Logits, targets: Mapping[str, Tensor]) -> SumAndCount:
        """targets: labels int [B T] (-100: not judged), next_sentence_label int [B]. The sum of two means, count 1."""
        tokens, relations = logits["prediction_logits"], logits["seq_relationship_logits"]
        labels = _target(targets, "labels", tokens.shape[:2], tokens.shape[2])
        words, judged = self.book.cross_entropy(tokens.flatten(0, 1), labels.flatten())
        pairs, count = self.book.cross_entropy(
            relations, _target(targets, "next_sentence_label", relations.shape[:1], 2)
        )
        return words / judged + pairs / count, torch.ones_like(count)


class SequenceClassification(nn.Module):
    """Logits for each text. One label: a number to regress, with squared error."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: SequenceClassificationConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.cls = nn.Linear(model.embed.d_model, config.num_labels, bias=config.bias)

    def forward(self, states: States) -> Logits:
        """-> logits [B labels]."""
        x = states.pooled if self.config.reads == "pooler" else self.last_token(states)  # [B D]
        if x is None:
            raise InputError("sequence-classification: the model has no pooler to read")
        return {"logits": self.cls(self.book.drop(x, self.config.dropout if self.training else 0.0))}

    def last_token(self, states: States) -> Tensor:
        """The vector of the right-most token that is not padding, on whichever side the padding is. -> [B D]."""
        batch, length = states.ids.shape
        if self.config.pad_id is not None:
            real = states.ids != self.config.pad_id  # [B T]
        elif states.attention_mask is not None:
            real = states.attention_mask != 0
        else:
            real = torch.ones_like(states.ids, dtype=torch.bool)
        places = torch.arange(length, device=real.device)
        last = (places * real).argmax(-1)  # [B]
        return states.hidden[torch.arange(batch, device=last.device), last]

    def loss(self, logits: Logits, targets: Mapping[str, Tensor]) -> SumAndCount:
        """targets: labels int [B]; or float, [B] for one label, [B labels] of 0 and 1 for several at once."""
        scores = logits["logits"]
        batch, count = scores.shape
        labels = _given(targets, "labels", (batch,), (batch, 1), (batch, count))
        if count == 1:
            errors = (scores.flatten() - labels.flatten().to(scores.dtype)).square()
            return errors.sum(), torch.ones_like(errors, dtype=torch.int64).sum()
        if labels.is_floating_point():
            wanted = _given(targets, "labels", (batch, count)).to(scores.dtype)
            losses = nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum")
            return losses, torch.ones_like(wanted, dtype=torch.int64).sum()
        return self.book.cross_entropy(scores, _target(targets, "labels", (batch,), count))


class TokenClassification(nn.Module):
    """Logits for each token."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: TokenClassificationConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.cls = nn.Linear(model.embed.d_model, config.num_labels)

    def forward(self, states: States) -> Logits:
        """-> logits [B T labels]."""
        return {"logits": self.cls(self.book.drop(states.hidden, self.dropout if self.training else 0.0))}

    def loss(self, logits: Logits, targets: Mapping[str, Tensor]) -> SumAndCount:
        """targets: labels int [B T], -100 where nothing is judged."""
        scores = logits["logits"]  # [B T labels]
        labels = _target(targets, "labels", scores.shape[:2], scores.shape[2])
        return self.book.cross_entropy(scores.flatten(0, 1), labels.flatten())


class QuestionAnswering(nn.Module):
    """For each token, a logit for being the answer's first and one for being its last."""

    book: Book = BOOKS["fused"]

    def __init__(self, _config: QuestionAnsweringConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.qa = nn.Linear(model.embed.d_model, 2)

    def forward(self, states: States) -> Logits:
        """-> start_logits [B T], end_logits [B T]."""
        start, end = self.qa(states.hidden).unbind(-1)
        return {"start_logits": start, "end_logits": end}

    def loss(self, logits: Logits, targets: Mapping[str, Tensor]) -> SumAndCount:
        """targets: start_positions, end_positions int [B]; a place at or past the end is not judged.

        The mean is over all places that are judged. transformers takes the mean of the starts and of the ends, and
        then of the two: the same, unless more of one than of the other are past the end.
        """
        batch, length = logits["start_logits"].shape
        places = torch.cat([_target(targets, name, (batch,)) for name in ("start_positions", "end_positions")])
        scores = torch.cat([logits["start_logits"], logits["end_logits"]])  # [2B T]
        return self.book.cross_entropy(scores, places.clamp(0, length), ignore_index=length)


class MultipleChoice(nn.Module):
    """One logit for each choice, from the pooler."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: MultipleChoiceConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.cls = nn.Linear(model.embed.d_model, 1)

    def forward(self, states: States) -> Logits:
        """-> logits [B choices]."""
        if states.pooled is None:
            raise InputError("multiple-choice: the model has no pooler to read")
        scores = self.cls(self.book.drop(states.pooled, self.dropout if self.training else 0.0))  # [B·choices 1]
        return {"logits": scores.view(-1, states.choices)}

    def loss(self, logits: Logits, targets: Mapping[str, Tensor]) -> SumAndCount:
        """targets: labels int [B], the right choice."""
        scores = logits["logits"]
        return self.book.cross_entropy(scores, _target(targets, "labels", scores.shape[:1], scores.shape[1]))


Head = LanguageModel | Pretraining | SequenceClassification | TokenClassification | QuestionAnswering | MultipleChoice


def head(config: HeadConfig, model: TransformerConfig) -> Head:
    """The module for a head's config."""
    match config:
        case LanguageModelConfig():
            return LanguageModel(config, model)
        case PretrainingConfig():
            return Pretraining(config, model)
        case SequenceClassificationConfig():
            return SequenceClassification(config, model)
        case TokenClassificationConfig():
            return TokenClassification(config, model)
        case QuestionAnsweringConfig():
            return QuestionAnswering(config, model)
        case MultipleChoiceConfig():
            return MultipleChoice(config, model)


def _given(targets: Mapping[str, Tensor], name: str, *shapes: tuple[int, ...]) -> Tensor:
    """The target of that name, if it is there and has one of these shapes; else an InputError."""
    if name not in targets:
        raise InputError(f"{name}: this head needs it for its loss; got {', '.join(sorted(targets)) or 'nothing'}")
    target = targets[name]
    if not isinstance(target, Tensor) or tuple(target.shape) not in shapes:
        got = list(target.shape) if isinstance(target, Tensor) else type(target).__name__
        wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise InputError(f"{name}: got {got}, expected a tensor of shape {wanted}")
    return target


def _target(targets: Mapping[str, Tensor], name: str, shape: tuple[int, ...], classes: int | None = None) -> Tensor:
    """The target of that name as int64, checked: of this shape, each below `classes` or what is not judged."""
    target = _given(targets, name, tuple(shape))
    if target.is_floating_point():
        raise InputError(f"{name}: got {target.dtype}, expected whole numbers")
    if classes is not None and target.device.type == "cpu":
        wrong = ((target < 0) | (target >= classes)) & (target != IGNORED)
        if wrong.any():
            raise InputError(
                f"{name}: got {int(target[wrong][0])}, expected 0 to {classes - 1}, or {IGNORED} for what is not judged"
            )
    return target.to(torch.int64)
