"""The batch that both sides run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from minitransformer.config import MultipleChoiceConfig, SequenceClassificationConfig, TransformerConfig
from minitransformer.errors import InputError, TokenizerError
from minitransformer.pretrained import Pretrained
from minitransformer.text import Tokenizer

# Short and long, so that there is padding; in pairs, so that there are token types.
PAIRS = (
    ("The cat sat on the mat.", "It purred."),
    ("Attention is all you need, said eight authors in 2017.", "Have you read it?"),
    ("No.", "Why not?"),
    ("An animal didn't cross the street because it was too tired; the street wasn't tired at all.", "Who was?"),
    ("naïve café, 東京, Ελλάδα, \U0001f642!", "3.14159 × 2 = 6.28318"),
    ("She asked him where he had put the keys", "and he, looking at nothing in particular, shrugged."),
)


def make_batch(model: Pretrained, texts: str | Sequence[str] | None) -> tuple[dict[str, Tensor], list[str]]:
    """The inputs, int [B T] (multiple choice: [B choices T]), and what is to be said about them."""
    config = model.transformer.config
    notes = []
    if texts is None and not _has_tokenizer(model):
        batch = _random(config)
        notes.append("the checkpoint has no tokenizer: the batch is random token ids from a fixed seed")
    else:
        batch, cut = _encoded(model, texts)
        notes += [f"{cut} of {len(batch['input_ids'])} texts were cut to {model.max_length} tokens"] * (cut > 0)
    for row, real in enumerate(batch["attention_mask"].any(-1).tolist()):
        if not real:
            raise InputError(f"texts: got no token in text {row}, expected at least one")
    if _takes_one_text(config) and len(batch["input_ids"]) > 1:
        real = batch["attention_mask"][0] != 0
        batch = {name: x[:1, real] for name, x in batch.items()}
        notes.append("config.json names no pad_token_id, without which transformers takes one text only: the first")
    if isinstance(config.head, MultipleChoiceConfig):
        choices = 2 if len(batch["input_ids"]) % 2 == 0 else len(batch["input_ids"])
        batch = {name: x.unflatten(0, (-1, choices)) for name, x in batch.items()}  # [B choices T]
    return batch, notes


def describe(batch: dict[str, Tensor]) -> str:
    """The size of a batch, in words."""
    mask = batch["attention_mask"].flatten(0, -2)
    count, length = mask.shape
    return f"{count} text{'s' if count > 1 else ''} of up to {length} tokens, {int(mask.sum())} in all"


def _takes_one_text(config: TransformerConfig) -> bool:
    """Whether transformers refuses several texts: it has to find the last token, and no id says what padding is."""
    head = config.head
    return isinstance(head, SequenceClassificationConfig) and head.reads == "last_token" and head.pad_id is None


def _has_tokenizer(model: Pretrained) -> bool:
    try:
        return isinstance(model.tokenizer, Tokenizer)
    except TokenizerError:
        return False


def _encoded(model: Pretrained, texts: str | Sequence[str] | None) -> tuple[dict[str, Tensor], int]:
    """The texts as a batch, and how many of them were cut to the model's length."""
    if texts is None:
        first, second = [pair[0] for pair in PAIRS], [pair[1] for pair in PAIRS]
    else:
        first, second = [texts] if isinstance(texts, str) else list(texts), None
    if not first:
        raise InputError("texts: got none, expected at least one; leave texts out for the built-in ones")
    limit = model.max_length
    batch = model.tokenizer(first, second, truncation=limit is not None, max_length=limit)
    return {"attention_mask": torch.ones_like(batch["input_ids"]), **batch}, len(batch.truncated)


def _random(config: TransformerConfig) -> dict[str, Tensor]:
    """Six rows of 5 to 15 tokens, with token types where the model has any."""
    generator = torch.Generator().manual_seed(0)
    length = min(15, config.embed.max_positions or 15)
    lengths = torch.tensor([length, length // 3, length // 2, length, 2 * length // 3, length - 1]).clamp(min=1)
    real = torch.arange(length) < lengths[:, None]  # [B T]
    vocab_size = config.embed.vocab_size
    ids = torch.randint(min(1, vocab_size - 1), vocab_size, real.shape, generator=generator)  # 0 is often padding
    padding = getattr(config.head, "pad_id", None) or 0
    batch = {"input_ids": ids.where(real, padding), "attention_mask": real.to(torch.int64)}
    if config.embed.token_types is not None:
        learned = config.embed.token_types == "learned"
        kinds = config.embed.type_vocab_size if learned else vocab_size
        batch["token_type_ids"] = torch.randint(0, kinds, real.shape, generator=generator)
    return batch
