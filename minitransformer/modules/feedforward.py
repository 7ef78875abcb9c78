"""The position-wise feed-forward network."""

from collections.abc import Callable

from torch import Tensor, nn

from minitransformer.config import StackConfig
from minitransformer.ops import BOOKS, Book


class FeedForward(nn.Module):
    """activation(x W_up + b_up) W_down + b_down, at each position by itself. Vaswani et al. 2017, eq. 2."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.d_model, config.d_ffn)
        self.down = nn.Linear(config.d_ffn, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """x [B T D] -> [B T D]."""
        activation: Callable[[Tensor], Tensor] = getattr(self.book, self.activation)
        return self.down(activation(self.up(x)))  # [B T F] inside
