"""New tokens in a trained model: a row for each in the tables of tokens, and in what gives logits over them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from minitransformer.config import TokenEmbeddingConfig
from minitransformer.errors import InputError
from minitransformer.model.transformer import Transformer
from minitransformer.modules import TokenEmbedding

NOISE = 0.1  # of a new row, in deviations of the old ones


def add_rows(model: Transformer, ids: Sequence[int]) -> None:
    """Draw the vectors of new tokens, in place; tables that end before their ids grow. All other numbers stay.

    They are drawn around the mean of the old ones, where nothing is unusual: what the model computes, and which tokens
    it predicts, hardly changes before it has learned them (Hewitt 2021, "Initializing New Word Embeddings"). The noise
    tells the new tokens from each other. From torch's global generator.
    """
    size = max(vocab_size(model), *(number + 1 for number in ids))
    embeds = [part for part in (model.embed, model.target_embed) if isinstance(part, TokenEmbedding)]
    for tokens in dict.fromkeys(embed.tokens for embed in embeds):  # two stacks may share one table
        _grow(tokens, "weight", ids, size)
        tokens.num_embeddings = size
    if model.config.lm is not None:  # a tied matrix is a table that has grown already
        _grow(model.projection(), "weight", ids, size)
        _grow(model.projection(), "bias", ids, size)
    for embed in embeds:
        embed.config = replace(embed.config, vocab_size=size)
    target = None if model.target_embed is None else model.target_embed.config
    model.config = replace(model.config, embed=model.embed.config, target_embed=target)


def vocab_size(model: Transformer) -> int:
    """How many tokens the model has vectors for. An InputError unless it reads tokens, all of one vocabulary."""
    embeds = (model.config.embed, model.config.target_embed)
    sizes = {embed.vocab_size for embed in embeds if isinstance(embed, TokenEmbeddingConfig)}
    if len(sizes) != 1:
        got = f"{len(sizes)} vocabularies" if sizes else "images"
        raise InputError(f"new tokens: this model reads {got}, expected a model of one vocabulary")
    return sizes.pop()


def drawn(old: Tensor, ids: Sequence[int], size: int) -> Tensor:
    """The old rows, and at `ids` new ones around their mean: [V ...] -> [size ...]."""
    new = torch.cat((old, old.new_zeros(size - len(old), *old.shape[1:])))  # [size ...]
    learned = torch.ones(len(old), dtype=torch.bool, device=old.device)  # [V]
    learned[[number for number in ids if number < len(old)]] = False
    deviation, mean = torch.std_mean(old[learned].float(), 0)  # [...]
    noise = torch.randn(len(ids), *old.shape[1:], device="cpu").to(deviation)  # the same on each device
    new[list(ids)] = (mean + NOISE * deviation * noise).to(old.dtype)
    return new


def _grow(part: nn.Module, name: str, ids: Sequence[int], size: int) -> None:
    """Put the grown tensor in the place of the old one: a parameter, or BART's bias, which is not trained."""
    old = getattr(part, name)
    if old is not None:
        new = drawn(old.detach(), ids, size)
        setattr(part, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
