"""Where a token stands: a vector for each position, learned or sinusoidal; or a number for each distance."""

import torch
from torch import Tensor, nn

from minitransformer.config import RelativePositionsConfig, TokenEmbeddingConfig
from minitransformer.ops import BOOKS, Book


class SinusoidalPositions(nn.Module):
    """Sines and cosines of wavelengths from 2π to 10000 · 2π. Nothing to learn, and no last position.

    Vaswani et al. 2017, section 3.5. `formula` is the book's: "sinusoidal", the paper's own, or "sinusoidal_halves".
    """

    book: Book = BOOKS["fused"]

    def __init__(self, d_model: int, formula: str = "sinusoidal") -> None:
        super().__init__()
        self.d_model = d_model
        self.formula = formula

    def forward(self, position_ids: Tensor) -> Tensor:
        """position_ids int [B|1 T] -> [B|1 T D], float64."""
        return getattr(self.book, self.formula)(position_ids, self.d_model)


def positions(config: TokenEmbeddingConfig) -> nn.Module | None:
    """The module that a config asks for: position_ids int [B|1 T] -> [B|1 T D]."""
    if config.positions is None:
        return None
    if config.positions == "learned" and config.max_positions is not None:
        return lookup(config.max_positions, config.d_table)
    return SinusoidalPositions(config.d_table, config.positions)


class RelativeBias(nn.Module):
    """What is added to each head's scores, by how far the key is from the query. Raffel et al. 2019, section 2.1."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: RelativePositionsConfig, heads: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.config = config
        self.bidirectional = bidirectional
        self.weight = nn.Parameter(torch.zeros(config.buckets, heads))

    def forward(self, queries: int, keys: int) -> Tensor:
        """The bias of the last `queries` of `keys` places: [1 H T S]."""
        places = torch.arange(keys, device=self.weight.device)
        distances = places[None, :] - places[keys - queries :, None]  # [T S]
        config = self.config
        buckets = self.book.relative_buckets(distances, config.buckets, config.max_distance, self.bidirectional)
        return self.weight[buckets].permute(2, 0, 1)[None]  # [1 H T S]


def lookup(rows: int, d_model: int) -> nn.Embedding:
    """A table of zeros, whose first values `build` draws or a checkpoint gives: ids [...] -> [... D].

    nn.Embedding would draw values itself, for which torch imports its compiler on the meta device: over a second.
    """
    return nn.Embedding.from_pretrained(torch.zeros(rows, d_model), freeze=False)


def consecutive(length: int, *, past: int, device: torch.device) -> Tensor:
    """past, past + 1, …: the default position ids after `past` cached tokens. [1 T]."""
    return torch.arange(past, past + length, device=device)[None]
