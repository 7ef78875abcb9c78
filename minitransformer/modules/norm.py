"""Normalisation, and where it stands: the paper's "Add & Norm"."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from minitransformer.config import NormKind, NormOrder
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


class RMSNorm(nn.Module):
    """Bring each vector to a mean square of 1, then scale by learned numbers. Zhang, Sennrich 2019."""

    book: Book = BOOKS["fused"]

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Tensor) -> Tensor:
        """x [... D] -> [... D]."""
        return self.book.rms_norm(x, self.weight, self.eps)


Norm = LayerNorm | RMSNorm
NORMS: dict[NormKind, type[LayerNorm] | type[RMSNorm]] = {"layer": LayerNorm, "rms": RMSNorm}


class AddNorm(nn.Module):
    """A sub-layer f with its residual connection. It has no weights: the norm is handed in.

    post: norm(x + f(x)), the paper's own (Vaswani et al. 2017, section 3.1), BERT's.
    pre:  x + f(norm(x)), GPT-2's: the residual stream itself is never normalised.
    """

    def __init__(self, order: NormOrder) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor, norm: Norm, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """x [B T D] -> [B T D]."""
        if self.order == "pre":
            return x + sublayer(norm(x))
        return norm(x + sublayer(x))
