"""Normalisation, and where it stands: the paper's "Add & Norm"."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minitransformer.config import NormOrder
from minitransformer.ops import BOOKS, Book


class LayerNorm(nn.Module):
    """Bring each vector to mean 0 and variance 1, then scale and shift by learned numbers. Ba et al. 2016."""

    book: Book = BOOKS["fused"]

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """x [... D] -> [... D]."""
        return self.book.layer_norm(x, self.weight, self.bias, self.eps)


class AddNorm(nn.Module):
    """A sub-layer f with its residual connection. It has no weights: the norm is handed in.

    post: norm(x + dropout(f(x))), the paper's own (section 5.4), BERT's.
    pre:  x + dropout(f(norm(x))), GPT-2's: the residual stream itself is never normalised.
    """

    book: Book = BOOKS["fused"]

    def __init__(self, order: NormOrder, dropout: float) -> None:
        super().__init__()
        self.order = order
        self.dropout = dropout

    def forward(self, x: Tensor, norm: LayerNorm, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """x [B T D] -> [B T D]."""
        dropout = self.dropout if self.training else 0.0
        if self.order == "pre":
            return x + self.book.drop(sublayer(norm(x)), dropout)
        return norm(x + self.book.drop(sublayer(x), dropout))
