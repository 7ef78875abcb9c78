"""Language models: which token comes next, or which one stood where a mask is.

Each text is a document. It is cut into blocks of max_length tokens, and no block holds two documents: so nothing is
read with another document in front of it, and how well one is predicted does not depend on its neighbours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from minitransformer.errors import DataError, InputError, TokenizerError
from minitransformer.metrics import perplexity
from minitransformer.model import Transformer
from minitransformer.model.heads import IGNORED, SumAndCount
from minitransformer.tasks.task import Criterion, Example, Kind, Row, columns_row, logits_of, pad, token_labels
from minitransformer.text import Batch, Tokenizer

MASKED, KEPT = 0.8, 0.1  # of the chosen tokens: shown as a mask, shown as they are; the others: as a random token
GUESSES = 5  # tokens that are named for each mask


@dataclass(frozen=True)
class TokenLoss:
    """How well the tokens of a text are predicted."""

    loss: float  # the sum of -log of their probabilities
    tokens: int  # how many were predicted

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {self.loss / max(1, self.tokens):.4f} nats each"


@dataclass(frozen=True)
class Filled:
    """A text with masks, and the most probable tokens for each of them, with their probabilities."""

    text: str
    places: tuple[tuple[tuple[str, float], ...], ...]

    def __str__(self) -> str:
        guesses = ("  ".join(f"{token.strip()} {share:.1%}" for token, share in place) for place in self.places)
        return "\n    ".join([self.text, *guesses])


class CausalLM:
    """Rows: text, a document. Which token comes next? Radford et al. 2019.

    A document ends with the end token, if the tokenizer has one, and begins with what the tokenizer puts there. Each
    block begins with the last token of the one before: a block's first token is not predicted, and so each token of a
    document but its first is predicted once.
    """

    kind: ClassVar = Kind(
        head="causal-lm",
        metric="perplexity",
        row_metric="loss",
        inputs=("text",),
        options=("label_smoothing",),
        documents=True,
        learned="next tokens",
        pipeline="text-generation",
        example='model.generate("Once upon a time", max_new_tokens=40)',
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_length: int | None,
        criterion: Criterion = Criterion(),  # noqa: B008, it is frozen
    ) -> None:
        if max_length is not None and max_length < 2:
            raise InputError(f"max_length: got {max_length}, expected 2 or more: a token, and the one that comes next")
        self.tokenizer, self.max_length, self.criterion = tokenizer, max_length, criterion

    def row(self, given: Any) -> Row:
        """See `document`."""
        return document(given)

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each block; its target is the block itself."""
        if not targets:
            raise InputError("predict: a language model goes on with a text; try generate: model.generate(text)")
        examples = []
        for place, row in enumerate(rows):
            ids = self.tokens(row)
            width = self.max_length or len(ids)
            blocks = [ids[start : start + width] for start in range(0, len(ids) - 1, width - 1)]
            examples += [Example(place, {"input_ids": block}, block) for block in blocks]
        return examples

    def tokens(self, row: Row) -> list[int]:
        """The token ids of a document, two or more."""
        ids, end = self.tokenizer.encode(row.text("text")), self.tokenizer.eos_token_id
        if end is not None and ids[-1:] != [end]:
            ids.append(end)
        if len(ids) < 2:
            raise DataError(f"{row.where}: {row['text']!r:.60} is {len(ids)} token(s); there is none to predict")
        return ids

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids and labels int [B T], the same but for padding, which is not judged."""
        batch = pad(self.tokenizer, examples)
        batch["labels"] = token_labels(examples, batch["input_ids"].shape[1])
        return batch

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of tokens, without each block's first."""
        return self.criterion.count(batch["labels"][:, 1:])

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Cross-entropy of each next token."""
        return model.loss(batch, self.criterion)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[TokenLoss]:
        """How well each block is predicted."""
        return token_losses(model, batch)

    def answers(
        self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[TokenLoss]
    ) -> list[TokenLoss]:
        """How well each document is predicted."""
        return of_rows(rows, examples, decoded)

    def score(self, answers: Sequence[TokenLoss], rows: Sequence[Row]) -> dict[str, float]:
        """Loss and perplexity."""
        return scores(answers)


class MaskedLM:
    """Rows: text, a document. Which token stood where a mask is? Devlin et al. 2018, section 3.1.

    Each block has the special tokens that the tokenizer puts around a text. Whenever a batch is made, other tokens are
    chosen, as in Liu et al. 2019 (RoBERTa), section 4.1. To predict, a text has masks, and the model fills them.
    """

    kind: ClassVar = Kind(
        head="masked-lm",
        metric="perplexity",
        row_metric="loss",
        inputs=("text",),
        options=("label_smoothing",),
        documents=True,
        learned="tokens to guess",
        pipeline="fill-mask",
        example="model.predict([f\"A {model.tokenizer.special['mask_token']} day.\"])",
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_length: int | None,
        criterion: Criterion = Criterion(),  # noqa: B008, it is frozen
        *,
        mask_probability: float = 0.15,
    ) -> None:
        if tokenizer.mask_token_id is None:
            raise TokenizerError(
                "mlm: this tokenizer has no mask token; take a checkpoint such as BERT, or the task lm"
            )
        if not 0 < mask_probability <= 1:
            raise InputError(f"mask_probability: got {mask_probability}, expected a number above 0, up to 1")
        self.tokenizer, self.max_length, self.criterion = tokenizer, max_length, criterion
        self.mask, self.mask_probability = tokenizer.mask_token_id, mask_probability
        special = {tokenizer.backend.token_to_id(token) for token in tokenizer.special.values()}
        self.words = torch.tensor([number for number in range(len(tokenizer)) if number not in special])
        self.special = special - {tokenizer.unk_token_id, None}  # what stands for an unknown word is text

    def row(self, given: Any) -> Row:
        """See `document`."""
        return document(given)

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each block; its target is the block itself, of which `collate` hides some tokens."""
        examples = []
        for place, row in enumerate(rows):
            blocks = self.blocks(row)
            if not targets and not any(self.mask in block for block in blocks):
                mask = self.tokenizer.special["mask_token"]
                raise InputError(f"{row.where}: no {mask} in {row['text']!r:.60}; put it where a word is to be guessed")
            if targets and any(set(block) <= self.special for block in blocks):
                raise DataError(
                    f"{row.where}: got special tokens alone in {row['text']!r:.60}, expected a word to hide"
                )
            examples += [Example(place, {"input_ids": block}, block if targets else None) for block in blocks]
        return examples

    def blocks(self, row: Row) -> list[list[int]]:
        """The token ids of a document, block by block."""
        encoding = self.tokenizer.encodings(row.text("text"))[0]
        ids = encoding.ids
        words = [place for place, owner in enumerate(encoding.sequence_ids) if owner is not None]
        if not words:
            raise DataError(f"{row.where}: the tokenizer finds no token in {row['text']!r:.60}")
        first, end = words[0], words[-1] + 1  # before and after: the special tokens around the text
        room = end - first if self.max_length is None else self.max_length - first - (len(ids) - end)
        if room < 1:
            raise InputError(f"max_length: got {self.max_length}, expected more: special tokens leave no room for text")
        starts = range(first, end, room)
        return [ids[:first] + ids[start : min(start + room, end)] + ids[end:] for start in starts]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids int [B T], some of them hidden; labels int [B T], -100 but for those."""
        batch = pad(self.tokenizer, examples)
        if examples[0].target is not None:
            batch["labels"] = torch.full_like(batch["input_ids"], IGNORED)
            # Row by row: which tokens are chosen does not depend on how rows are put into batches.
            for example, read, labels in zip(examples, batch["input_ids"], batch["labels"], strict=True):
                ids = torch.tensor(example.target)  # [T of this row]
                chosen = self.chosen(ids)
                read[: len(ids)] = torch.where(chosen, self.hidden(ids), ids)
                labels[: len(ids)] = ids.masked_fill(~chosen, IGNORED)
        return batch

    def chosen(self, ids: Tensor) -> Tensor:
        """Which tokens are to be predicted, at least one: ids int [T] -> bool [T]."""
        words = ~torch.isin(ids, torch.tensor(sorted(self.special)))
        drawn = torch.rand(ids.shape).masked_fill(~words, 2)  # 2: never
        return words & (drawn <= drawn.amin().clamp(min=self.mask_probability))

    def hidden(self, ids: Tensor) -> Tensor:
        """What the model sees in place of chosen tokens: ids int [T] -> int [T]."""
        drawn = torch.rand(ids.shape)
        random = self.words[torch.randint(len(self.words), ids.shape)]
        seen = torch.where(drawn < MASKED + KEPT, ids, random)
        return seen.masked_fill(drawn < MASKED, self.mask)

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of chosen tokens."""
        return self.criterion.count(batch["labels"])

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Cross-entropy of the chosen tokens."""
        return model.loss(batch, self.criterion)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[Any]:
        """How well each block is predicted; without labels, the most probable tokens for each mask of a block."""
        if "labels" in batch:
            return token_losses(model, batch)
        shares = torch.softmax(model(**batch).logits.float(), -1)[..., : len(self.tokenizer)]  # [B T V]
        return [self.guesses(shares[i][ids == self.mask]) for i, ids in enumerate(batch["input_ids"])]

    def guesses(self, shares: Tensor) -> list[tuple[tuple[str, float], ...]]:
        """The most probable tokens for each mask: each token's probability [masks V]."""
        best, ids = shares.topk(min(GUESSES, shares.shape[1]))  # [masks guesses]
        tokens = [[self.tokenizer.decode([number]) for number in row] for row in ids.tolist()]
        return [tuple(zip(*pairs, strict=True)) for pairs in zip(tokens, best.tolist(), strict=True)]

    def answers(self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[Any]) -> list[Any]:
        """How well each document is predicted, or its masks filled."""
        if all(isinstance(found, TokenLoss) for found in decoded):
            return of_rows(rows, examples, decoded)
        places: list[list[Any]] = [[] for _ in rows]
        for example, found in zip(examples, decoded, strict=True):
            places[example.row] += found
        return [Filled(row["text"], tuple(found)) for row, found in zip(rows, places, strict=True)]

    def score(self, answers: Sequence[TokenLoss], rows: Sequence[Row]) -> dict[str, float]:
        """Loss and perplexity of the chosen tokens: other tokens chosen, other numbers."""
        return scores(answers)


def document(given: Any) -> Row:
    """A row of a text, or of columns."""
    if isinstance(given, str):
        return Row(text=given, where="a text")
    return columns_row(given, "a text")


def token_losses(model: Transformer, batch: Mapping[str, Tensor]) -> list[TokenLoss]:
    """How well a language model predicts the labels of each row of a batch."""
    if model.head is None:
        raise InputError("this model has no head; load it with head='causal-lm' or 'masked-lm'")
    logits = logits_of(model, batch)  # [B T V]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    found = []
    for row, labels in zip(logits.split(1), batch["labels"].split(1), strict=True):
        total, count = model.head.loss({"logits": row}, {"labels": labels})
        found.append(TokenLoss(total.item(), int(count)))
    return found


def of_rows(rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[TokenLoss]) -> list[TokenLoss]:
    """What was judged of each row's examples, together."""
    found = [TokenLoss(0.0, 0)] * len(rows)
    for example, part in zip(examples, decoded, strict=True):
        whole = found[example.row]
        found[example.row] = TokenLoss(whole.loss + part.loss, whole.tokens + part.tokens)
    return found


def scores(answers: Sequence[TokenLoss]) -> dict[str, float]:
    """The mean loss over all tokens, and the perplexity."""
    tokens = sum(answer.tokens for answer in answers)
    if not tokens:
        raise DataError("perplexity: no token was predicted, expected at least one")
    loss = sum(answer.loss for answer in answers) / tokens
    return {"loss": loss, "perplexity": perplexity(loss)}
