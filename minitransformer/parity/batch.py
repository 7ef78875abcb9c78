"""The batch that both sides run."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from minitransformer.config import (
    ClassificationConfig,
    PatchEmbeddingConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
)
from minitransformer.errors import InputError, TokenizerError
from minitransformer.model.transformer import TWICE_READ
from minitransformer.pretrained import Pretrained
from minitransformer.text import Tokenizer

Batch = dict[str, Tensor]

# Short and long, so that there is padding; in pairs, so that there are token types. A decoder reads the second.
PAIRS = (
    ("The cat sat on the mat.", "It purred."),
    ("Attention is all you need, said eight authors in 2017.", "Have you read it?"),
    ("No.", "Why not?"),
    ("An animal didn't cross the street because it was too tired; the street wasn't tired at all.", "Who was?"),
    ("naïve café, 東京, Ελλάδα, \U0001f642!", "3.14159 × 2 = 6.28318"),
    ("She asked him where he had put the keys", "and he, looking at nothing in particular, shrugged."),
)
LONGEST = 15  # tokens of a random text
SEED = "from a fixed seed"


def make_batch(model: Pretrained, texts: str | Sequence[str] | None) -> tuple[Batch, list[str]]:
    """The inputs, int [B T] (multiple choice: [B choices T]) or pixels, and what is to be said about them."""
    config = model.transformer.config
    if isinstance(config.embed, PatchEmbeddingConfig):
        if texts is not None:
            raise InputError("texts: this model reads images; leave texts out, and it is compared on random pixels")
        return _random_pixels(config.embed), [f"the batch is random pixels {SEED}"]
    notes = []
    if texts is None and not _has_tokenizer(model):
        batch = _random_texts(config, config.embed)
        notes.append(f"the checkpoint has no tokenizer: the batch is random token ids {SEED}")
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
    return _by_question(batch, config.task), notes


def describe(batch: Batch) -> str:
    """The size of a batch, in words."""
    if "pixel_values" in batch:
        count, *sizes = batch["pixel_values"].shape
        return f"{count} images of {' × '.join(map(str, sizes))} numbers"
    words = _describe_texts(batch.get("attention_mask", torch.ones_like(batch["input_ids"])).flatten(0, -2))
    if "decoder_attention_mask" in batch:
        words += f"; for the decoder {_describe_texts(batch['decoder_attention_mask'])}"
    return words


def read_by(side: str, batch: Batch, config: TransformerConfig) -> Batch:
    """What the encoder or the decoder reads of a batch: input_ids [B T], and what is given with them."""
    if side == "encoder" or config.encoder is None:
        own = {name: x for name, x in batch.items() if not name.startswith("decoder_")}
        return {name: x.flatten(0, -2) for name, x in own.items()} if "input_ids" in batch else own
    if "decoder_input_ids" not in batch:  # the same text, shifted
        return {"input_ids": shifted(batch["input_ids"], config)}
    return {name.removeprefix("decoder_"): x for name, x in batch.items() if name.startswith("decoder_")}


def real_tokens(side: str, batch: Batch, config: TransformerConfig) -> Tensor | None:
    """Where the encoder's or the decoder's tokens are not padding: bool [B T]; None for images, and without a mask."""
    if "attention_mask" not in batch:
        return None
    name = "attention_mask" if side == "encoder" or config.encoder is None else "decoder_attention_mask"
    return batch.get(name, batch["attention_mask"]).flatten(0, -2) != 0


def shifted(ids: Tensor, config: TransformerConfig) -> Tensor:
    """What a decoder reads that is to write these: they come one place later, behind the start. [B T] -> [B T]."""
    return torch.cat((torch.full_like(ids[:, :1], config.decoder_start_id or 0), ids[:, :-1]), dim=1)


def _describe_texts(mask: Tensor) -> str:
    count, length = mask.shape
    return f"{count} text{'s' if count > 1 else ''} of up to {length} tokens, {int(mask.sum())} in all"


def _by_question(batch: Batch, task: str) -> Batch:
    """The same texts as choices, two for each question, for a head that reads so: [B T] -> [B choices T]."""
    if task not in ("multiple-choice", "double-heads"):
        return batch
    if task == "double-heads":  # without a mask: not every class of transformers can read one of several choices
        mask = batch["attention_mask"]
        batch = {name: x for name, x in batch.items() if name != "attention_mask"}
        batch["mc_token_ids"] = (mask * torch.arange(mask.shape[1])).argmax(-1)  # [B], the last token
    choices = 2 if len(batch["input_ids"]) % 2 == 0 else len(batch["input_ids"])
    return {name: x.unflatten(0, (-1, choices)) for name, x in batch.items()}


def _takes_one_text(config: TransformerConfig) -> bool:
    """Whether transformers refuses several texts: it has to find the last token, and no id says what padding is."""
    head = config.head
    return isinstance(head, ClassificationConfig) and head.reads == "last_token" and head.token_id is None


def _writes(config: TransformerConfig) -> bool:
    """Whether the decoder reads a text of its own."""
    return config.encoder is not None and config.decoder is not None and not isinstance(config.head, TWICE_READ)


def _has_tokenizer(model: Pretrained) -> bool:
    try:
        return isinstance(model.tokenizer, Tokenizer)
    except TokenizerError:
        return False


def _encoded(model: Pretrained, texts: str | Sequence[str] | None) -> tuple[Batch, int]:
    """The texts as a batch, and how many of them were cut to the model's length."""
    config, second = model.transformer.config, None
    if texts is None:
        first, second = [pair[0] for pair in PAIRS], [pair[1] for pair in PAIRS]
    else:
        first = [texts] if isinstance(texts, str) else list(texts)
    if not first:
        raise InputError("texts: got none, expected at least one; leave texts out for the built-in ones")
    limit = model.max_length
    tokenizer = partial(model.tokenizer, truncation=limit is not None, max_length=limit)
    of_target = partial(model.tokenizer.target, truncation=limit is not None, max_length=limit)
    if not _writes(config):
        batch = tokenizer(first, second)
        return {"attention_mask": torch.ones_like(batch["input_ids"]), **batch}, len(batch.truncated)
    batch, target = tokenizer(first), of_target(second or first)
    written = {"attention_mask": torch.ones_like(target["input_ids"]), **target}
    read = {"attention_mask": torch.ones_like(batch["input_ids"]), **batch, **_to_be_written(written, config)}
    return read, len({*batch.truncated, *target.truncated})


def _to_be_written(target: Batch, config: TransformerConfig) -> Batch:
    """What a decoder reads that is to write `target`."""
    mask = target["attention_mask"]  # [B T]
    seen = torch.cat((torch.ones_like(mask[:, :1]), mask[:, :-1]), dim=1)
    return {"decoder_input_ids": shifted(target["input_ids"], config), "decoder_attention_mask": seen}


def _random_pixels(embed: PatchEmbeddingConfig) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.randn(3, embed.channels, *embed.image_size, generator=generator)}


def _random_texts(config: TransformerConfig, embed: TokenEmbeddingConfig) -> Batch:
    """Six rows of 5 to 15 tokens, with token types where the model has any, and for a decoder of its own six more."""
    generator = torch.Generator().manual_seed(0)
    batch = _random_ids(config, embed, generator)
    if embed.token_types is not None:
        kinds = embed.type_vocab_size if embed.token_types == "learned" else embed.vocab_size
        shape = batch["input_ids"].shape
        batch["token_type_ids"] = torch.randint(0, kinds, shape, generator=generator)
    if _writes(config):
        batch |= _to_be_written(_random_ids(config, config.target_embed or embed, generator), config)
    return batch


def _random_ids(config: TransformerConfig, embed: TokenEmbeddingConfig, generator: torch.Generator) -> Batch:
    """Random tokens, none of which is padding; where the head reads the end token, it stands at the end, only."""
    end = config.head.token_id if isinstance(config.head, ClassificationConfig) else None
    reads_end = isinstance(config.head, ClassificationConfig) and config.head.reads == "last_eos"
    padding = next(x for x in (config.pad_id, embed.skips_id, None if reads_end else end, 0) if x is not None)
    length = min(LONGEST, embed.max_length or LONGEST)
    lengths = torch.tensor([length, length // 3, length // 2, length, 2 * length // 3, length - 1]).clamp(min=1)
    real = torch.arange(length) < lengths[:, None]  # [B T]
    words = [i for i in range(embed.vocab_size) if i not in (padding, end)] or [0]
    ids = torch.tensor(words)[torch.randint(len(words), real.shape, generator=generator)].where(real, padding)
    if reads_end and end is not None:
        ids[torch.arange(len(ids)), lengths - 1] = end
    return {"input_ids": ids, "attention_mask": real.to(torch.int64)}
