"""Heads that give logits over the vocabulary, alone or beside another."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from minitransformer.config import (
    DoubleHeadsConfig,
    LanguageModelConfig,
    PatchEmbeddingConfig,
    PretrainingConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
)
from minitransformer.errors import ConfigError, InputError
from minitransformer.model.heads.states import CrossEntropy, Logits, States, SumAndCount, target
from minitransformer.modules import LayerNorm
from minitransformer.ops import BOOKS, Book


class LanguageModelProjection(nn.Module):
    """(norm(activation(dense(x))), then) x · scale · tableᵀ (+ bias): a logit for each token. [B T D] -> [B T V]."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: LanguageModelConfig, model: TransformerConfig) -> None:
        super().__init__()
        embed = vocabulary(model)
        width = embed.d_table if config.transform else model.embed.d_model
        self.activation = config.transform
        self.scale = config.scale
        self.dense = nn.Linear(model.embed.d_model, width) if config.transform else None
        self.norm = LayerNorm(width, config.norm_eps) if config.transform else None
        self.weight = None if config.tied else nn.Parameter(torch.empty(embed.vocab_size, width))
        zeros = torch.zeros(embed.vocab_size)
        if config.bias == "fixed":
            self.register_buffer("bias", zeros)
        else:
            self.bias = nn.Parameter(zeros) if config.bias else None

    def forward(self, x: Tensor, table: Tensor | None) -> Tensor:
        """x [B T D], table [V D] (used when the head has no weight of its own) -> [B T V]."""
        if self.activation is not None and self.dense is not None and self.norm is not None:
            x = self.norm(getattr(self.book, self.activation)(self.dense(x)))
        x = x if self.scale == 1 else x * self.scale
        matrix = table if self.weight is None else self.weight
        if matrix is None:
            raise InputError("the head has no matrix of its own, and the model has no table of tokens")
        return nn.functional.linear(x, matrix, self.bias)


def vocabulary(model: TransformerConfig) -> TokenEmbeddingConfig:
    """The embedding whose tokens a language model gives logits for."""
    embed = model.target_embed or model.embed
    if isinstance(embed, PatchEmbeddingConfig):
        raise ConfigError("head: got a language model over images, expected a model of tokens")
    return embed


class LanguageModel(nn.Module):
    """Which token stands here (masked-lm, seq2seq-lm), or comes next (causal-lm)."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: LanguageModelConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.shift = 1 if config.task == "causal-lm" else 0
        self.lm = LanguageModelProjection(config, model)

    def forward(self, states: States) -> Logits:
        """-> logits [B T V]."""
        return {"logits": self.lm(states.hidden, states.table)}

    def loss(
        self, logits: Logits, targets: Mapping[str, Tensor], cross_entropy: CrossEntropy | None = None
    ) -> SumAndCount:
        """targets: labels int [B T], -100 where nothing is judged; for causal-lm they are the input_ids themselves."""
        scores = logits["logits"]  # [B T V]
        labels = target(targets, "labels", scores.shape[:2], scores.shape[2])
        kept = scores.shape[1] - self.shift  # label t + shift belongs to logits t
        return (cross_entropy or self.book.cross_entropy)(
            scores[:, :kept].flatten(0, 1), labels[:, self.shift :].flatten()
        )


class Pretraining(nn.Module):
    """Masked tokens, and how two sentences stand to each other: does B follow A (BERT), are they in order (ALBERT).

    Devlin et al. 2018, section 3.1; Lan et al. 2019, section 3.1.
    """

    book: Book = BOOKS["fused"]
    NAMES: ClassVar = {  # which pairs -> their logits, their labels
        "next_sentence": ("seq_relationship_logits", "next_sentence_label"),
        "sentence_order": ("sop_logits", "sentence_order_label"),
    }

    def __init__(self, config: PretrainingConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.lm = LanguageModelProjection(config.lm, model)
        self.pairs = nn.Linear(model.embed.d_model, config.num_labels)

    def forward(self, states: States) -> Logits:
        """-> prediction_logits [B T V]; seq_relationship_logits or sop_logits [B labels] (0: B follows A, in order)."""
        pooled = self.book.drop(states.pooled, self.config.dropout if self.training else 0.0)  # [B D]
        logits, _ = self.NAMES[self.config.pairs]
        return {"prediction_logits": self.lm(states.hidden, states.table), logits: self.pairs(pooled)}

    def loss(
        self, logits: Logits, targets: Mapping[str, Tensor], cross_entropy: CrossEntropy | None = None
    ) -> SumAndCount:
        """targets: labels int [B T] (-100: not judged), and next_sentence_label or sentence_order_label int [B].

        The sum of two means, count 1.
        """
        of_pairs, label = self.NAMES[self.config.pairs]
        tokens, relations = logits["prediction_logits"], logits[of_pairs]
        labels = target(targets, "labels", tokens.shape[:2], tokens.shape[2])
        words, judged = (cross_entropy or self.book.cross_entropy)(tokens.flatten(0, 1), labels.flatten())
        wanted = target(targets, label, relations.shape[:1], relations.shape[1])
        pairs, count = (cross_entropy or self.book.cross_entropy)(relations, wanted)
        return words / judged + pairs / count, torch.ones_like(count)


class DoubleHeads(nn.Module):
    """Which token comes next, and which of several texts is right. Radford et al. 2018, section 3.2."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: DoubleHeadsConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.lm = LanguageModelProjection(config.lm, model)
        self.mc = nn.Linear(model.embed.d_model, 1)

    def forward(self, states: States) -> Logits:
        """-> logits [B choices T V], mc_logits [B choices], read from `read_at` or else from the last place."""
        choices = states.choices or 1
        places = states.hidden.shape[1] - 1 if states.read_at is None else states.read_at.flatten()
        x = states.hidden[torch.arange(len(states.hidden), device=states.hidden.device), places]  # [B·choices D]
        scores = self.mc(self.book.drop(x, self.dropout if self.training else 0.0))  # [B·choices 1]
        words = self.lm(states.hidden, states.table)  # [B·choices T V]
        return {"logits": words.unflatten(0, (-1, choices)), "mc_logits": scores.view(-1, choices)}

    def loss(
        self, logits: Logits, targets: Mapping[str, Tensor], cross_entropy: CrossEntropy | None = None
    ) -> SumAndCount:
        """targets: labels int [B choices T] (the input_ids; -100: not judged), mc_labels int [B], or one of the two.

        The mean over the tokens plus the mean over the questions, count 1 (the paper's λ is 1 here).
        """
        words, scores = logits["logits"], logits["mc_logits"]
        total, one = scores.new_zeros(()), scores.new_ones((), dtype=torch.int64)
        if "labels" in targets or "mc_labels" not in targets:
            labels = target(targets, "labels", words.shape[:3], words.shape[3])
            tokens, judged = (cross_entropy or self.book.cross_entropy)(
                words[..., :-1, :].flatten(0, 2), labels[..., 1:].flatten()
            )
            total = total + tokens / judged
        if "mc_labels" in targets:
            wanted = target(targets, "mc_labels", scores.shape[:1], scores.shape[1])
            questions, count = (cross_entropy or self.book.cross_entropy)(scores, wanted)
            total = total + questions / count
        return total, one
