"""Heads that sort what was read into labels: a whole text or image, each token, the ends of an answer."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from minitransformer.config import (
    ClassificationConfig,
    DistilledClassificationConfig,
    QuestionAnsweringConfig,
    ReplacedTokensConfig,
    TokenClassificationConfig,
    TransformerConfig,
)
from minitransformer.errors import InputError
from minitransformer.model.heads.states import IGNORED, CrossEntropy, Logits, States, SumAndCount, given, target
from minitransformer.ops import BOOKS, Book


class Classification(nn.Module):
    """Logits for each text or image; in multiple choice, one for each text, and the question is which is largest.

    A classifier with one label regresses a number, with squared error.
    """

    book: Book = BOOKS["fused"]

    def __init__(self, config: ClassificationConfig, model: TransformerConfig) -> None:
        super().__init__()
        d_model = model.embed.d_model
        self.config = config
        self.dense = nn.Linear(d_model, d_model) if config.transform else None
        self.cls = nn.Linear(d_model, config.num_labels, bias=config.bias)

    def forward(self, states: States) -> Logits:
        """-> logits [B labels], or [B choices]."""
        config = self.config
        x = self.whole(states)  # [B D]
        if self.dense is not None and config.transform is not None:
            x = self.book.drop(x, config.transform_dropout if self.training else 0.0)
            x = getattr(self.book, config.transform)(self.dense(x))
        logits = self.cls(self.book.drop(x, config.dropout if self.training else 0.0))  # [B labels]
        return {"logits": logits.view(-1, states.choices or 1) if config.task == "multiple-choice" else logits}

    def whole(self, states: States) -> Tensor:
        """The vector that stands for the whole text or image. -> [B D]."""
        if self.config.reads == "first_token":
            return states.hidden[:, 0]
        if self.config.reads == "pooler":
            if states.pooled is None:
                raise InputError(f"{self.config.task}: the model has no pooler to read")
            return states.pooled
        if states.ids is None or states.ids.shape != states.hidden.shape[:2]:
            raise InputError(f"{self.config.task}: it reads the text's last token; give input_ids and no others")
        places = torch.arange(states.ids.shape[1], device=states.ids.device)  # [T]
        last = (places * self.may_be_read(states, states.ids)).argmax(-1)  # [B]
        return states.hidden[torch.arange(last.shape[0], device=last.device), last]

    def may_be_read(self, states: States, ids: Tensor) -> Tensor:
        """Among which tokens the last is looked for, whichever side the padding is on: bool [B T]."""
        token = self.config.token_id
        if self.config.reads == "last_eos" and token is not None:
            ends: Tensor = ids.eq(token)
            if ids.device.type == "cpu" and not ends.any(-1).all():
                raise InputError(
                    f"input_ids: row {int((~ends.any(-1)).nonzero()[0])} has no end token ({token}), whose vector this "
                    f"head reads; let the tokenizer add it"
                )
            return ends
        if token is not None:
            return ids.ne(token)
        return torch.ones_like(ids, dtype=torch.bool) if states.attention_mask is None else states.attention_mask != 0

    def loss(
        self, logits: Logits, targets: Mapping[str, Tensor], cross_entropy: CrossEntropy | None = None
    ) -> SumAndCount:
        """targets: labels int [B]; or float, [B] for one label, [B labels] of 0 and 1 for several at once."""
        scores = logits["logits"]
        batch, count = scores.shape
        if self.config.task == "multiple-choice":
            return (cross_entropy or self.book.cross_entropy)(scores, target(targets, "labels", (batch,), count))
        labels = given(targets, "labels", (batch,), (batch, 1), (batch, count))
        if count == 1:
            errors = (scores.flatten() - labels.flatten().to(scores.dtype)).square()
            return errors.sum(), torch.ones_like(errors, dtype=torch.int64).sum()
        if labels.is_floating_point():
            wanted = given(targets, "labels", (batch, count)).to(scores.dtype)
            losses = nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum")
            return losses, torch.ones_like(wanted, dtype=torch.int64).sum()
        return (cross_entropy or self.book.cross_entropy)(scores, target(targets, "labels", (batch,), count))


class DistilledClassification(nn.Module):
    """Two classifiers: of the class token, trained on labels, and of the distillation token, trained on a teacher.

    The mean of their logits is the answer. Touvron et al. 2020, "DeiT", section 4; differs from the paper, which adds
    their probabilities. No loss: it needs the teacher.
    """

    def __init__(self, config: DistilledClassificationConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.cls = nn.Linear(model.embed.d_model, config.num_labels)
        self.distillation = nn.Linear(model.embed.d_model, config.num_labels)

    def forward(self, states: States) -> Logits:
        """-> logits, cls_logits, distillation_logits, [B labels] each."""
        by_class, by_teacher = self.cls(states.hidden[:, 0]), self.distillation(states.hidden[:, 1])
        logits = (by_class + by_teacher) / 2
        return {"logits": logits, "cls_logits": by_class, "distillation_logits": by_teacher}

    def loss(
        self, logits: Logits, targets: Mapping[str, Tensor], cross_entropy: CrossEntropy | None = None
    ) -> SumAndCount:
        """An InputError: distillation needs a teacher."""
        raise InputError("labels: this head is trained by a teacher; to fine-tune, load it with 'image-classification'")


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

    def loss(
        self, logits: Logits, targets: Mapping[str, Tensor], cross_entropy: CrossEntropy | None = None
    ) -> SumAndCount:
        """targets: labels int [B T], -100 where nothing is judged."""
        scores = logits["logits"]  # [B T labels]
        labels = target(targets, "labels", scores.shape[:2], scores.shape[2])
        return (cross_entropy or self.book.cross_entropy)(scores.flatten(0, 1), labels.flatten())


class QuestionAnswering(nn.Module):
    """For each token, a logit for being the answer's first and one for being its last."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: QuestionAnsweringConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.qa = nn.Linear(model.embed.d_model, 2)

    def forward(self, states: States) -> Logits:
        """-> start_logits [B T], end_logits [B T]."""
        x = self.book.drop(states.hidden, self.dropout if self.training else 0.0)  # [B T D]
        start, end = self.qa(x).unbind(-1)
        return {"start_logits": start, "end_logits": end}

    def loss(
        self, logits: Logits, targets: Mapping[str, Tensor], cross_entropy: CrossEntropy | None = None
    ) -> SumAndCount:
        """targets: start_positions, end_positions int [B]; a place at or past the end is not judged.

        The mean is over all places that are judged. transformers takes the mean of the starts and of the ends, and
        then of the two: the same, unless more of one than of the other are past the end.
        """
        batch, length = logits["start_logits"].shape
        places = torch.cat([target(targets, name, (batch,)) for name in ("start_positions", "end_positions")])
        scores = torch.cat([logits["start_logits"], logits["end_logits"]])  # [2B T]
        return (cross_entropy or self.book.cross_entropy)(scores, places.clamp(0, length), ignore_index=length)


class ReplacedTokens(nn.Module):
    """For each token, a logit for having been replaced by a generator. Clark et al. 2020, "ELECTRA", section 2."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: ReplacedTokensConfig, model: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.dense = nn.Linear(model.embed.d_model, model.embed.d_model)
        self.cls = nn.Linear(model.embed.d_model, 1)

    def forward(self, states: States) -> Logits:
        """-> logits [B T]."""
        x = getattr(self.book, self.activation)(self.dense(states.hidden))  # [B T D]
        return {"logits": self.cls(x).squeeze(-1)}

    def loss(
        self, logits: Logits, targets: Mapping[str, Tensor], cross_entropy: CrossEntropy | None = None
    ) -> SumAndCount:
        """targets: labels int [B T], 1 for a replaced token, -100 where nothing is judged; perhaps an attention_mask.

        Padding is not judged.
        """
        scores = logits["logits"]  # [B T]
        labels = target(targets, "labels", scores.shape, 2)
        judged = labels != IGNORED
        if "attention_mask" in targets:
            judged = judged & (targets["attention_mask"] != 0)
        wanted = labels[judged].to(scores.dtype)
        return nn.functional.binary_cross_entropy_with_logits(scores[judged], wanted, reduction="sum"), judged.sum()
