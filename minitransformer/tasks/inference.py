"""Running a model over many inputs, a batch at a time."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from minitransformer.config import TokenEmbeddingConfig
from minitransformer.errors import InputError
from minitransformer.model import Transformer
from minitransformer.model.evaluation import evaluation
from minitransformer.text import Batch, Tokenizer


@contextmanager
def inference(transformer: Transformer) -> Iterator[None]:
    """No dropout and no gradients inside; afterwards dropout is as it was."""
    with evaluation(transformer), torch.no_grad():
        yield


def token_limit(transformer: Transformer, tokenizer: Tokenizer | None, override: int | None = None) -> int | None:
    """How many tokens a model reads; None if there is no end. `override`: in place of the tokenizer's limit."""
    embed = transformer.config.embed
    positions = embed.max_length if isinstance(embed, TokenEmbeddingConfig) else None
    own = tokenizer.model_max_length if tokenizer is not None else None
    return min((limit for limit in (positions, override or own) if limit is not None), default=None)


def check_batch_size(batch_size: int) -> None:
    """Raise an InputError unless there is something in a batch."""
    if batch_size < 1:
        raise InputError(f"batch_size: got {batch_size}, expected 1 or more")


def lengths(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """How many tokens each text has, uncut."""
    return [len(encoding.ids) for encoding in tokenizer.encodings(texts)]


def collate(tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None) -> Batch:
    """The batch of these texts, cut to `max_length` tokens, padded to the longest.

    On the right, whatever the tokenizer says: on the left, padding would move a text's positions, and its first token.
    """
    return tokenizer(list(texts), truncation=max_length is not None, max_length=max_length, padding_side="right")


def text_batches(
    tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int | None, batch_size: int
) -> Iterator[tuple[list[int], Batch]]:
    """The texts in batches of like length, so that little is padded; with each batch, where its texts stood."""
    check_batch_size(batch_size)
    sizes = lengths(tokenizer, texts)
    if 0 in sizes:
        raise InputError(f"texts: got no token in text {sizes.index(0)}, expected at least one")
    cut = sum(size > max_length for size in sizes) if max_length is not None else 0
    if cut:
        warnings.warn(f"{cut} of {len(texts)} texts are longer than {max_length} tokens and were cut", stacklevel=4)
    by_length = sorted(range(len(texts)), key=sizes.__getitem__)
    for start in range(0, len(texts), batch_size):
        places = by_length[start : start + batch_size]
        yield places, collate(tokenizer, [texts[i] for i in places], max_length)
