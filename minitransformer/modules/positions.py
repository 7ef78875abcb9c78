"""Where a token stands: a vector for each position, learned or sinusoidal."""

import torch
from torch import Tensor, nn

from minitransformer.config import TokenEmbeddingConfig
from minitransformer.ops import BOOKS, Book


class SinusoidalPositions(nn.Module):
    """Sines and cosines of wavelengths from 2π to 10000 · 2π. Nothing to learn, and no last position.

    Vaswani et al. 2017, section 3.5.
    """

    book: Book = BOOKS["fused"]

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(self, position_ids: Tensor) -> Tensor:
        """position_ids int [B|1 T] -> [B|1 T D], float64."""
        return self.book.sinusoidal(position_ids, self.d_model)


def positions(config: TokenEmbeddingConfig) -> nn.Module:
    """The module that a config asks for: position_ids int [B|1 T] -> [B|1 T D]."""
    if config.positions == "learned" and config.max_positions is not None:
        return lookup(config.max_positions, config.d_model)
    return SinusoidalPositions(config.d_model)


def lookup(rows: int, d_model: int) -> nn.Embedding:
    """A table of zeros, whose first values `build` draws or a checkpoint gives: ids [...] -> [... D].

    nn.Embedding would draw values itself, for which torch imports its compiler on the meta device: over a second.
    """
    return nn.Embedding.from_pretrained(torch.zeros(rows, d_model), freeze=False)


def consecutive(length: int, *, past: int, device: torch.device) -> Tensor:
    """past, past + 1, …: the default position ids after `past` cached tokens. [1 T]."""
    return torch.arange(past, past + length, device=device)[None]
