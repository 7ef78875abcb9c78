"""The position-wise feed-forward network."""

from collections.abc import Callable

from torch import Tensor, nn

from minitransformer.config import StackConfig
from minitransformer.ops import BOOKS, Book


class FeedForward(nn.Module):
    """activation(x W_up + b_up) W_down + b_down, at each position by itself. Vaswani et al. 2017, eq. 2.

    Dropout falls on the output (section 5.4), in some models on the inner vector, too.
    Gated: (activation(x W_gate) · (x W_up)) W_down. Shazeer 2020, "GLU Variants Improve Transformer", eq. 6.
    """

    book: Book = BOOKS["fused"]

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        bias = "ffn" in config.biases
        self.activation = config.activation
        self.inner_dropout, self.dropout = config.activation_dropout, config.ffn_dropout
        self.gate = nn.Linear(config.d_model, config.d_ffn, bias) if config.gated else None
        self.up = nn.Linear(config.d_model, config.d_ffn, bias)
        self.down = nn.Linear(config.d_ffn, config.d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B T D] -> [B T D]."""
        activation: Callable[[Tensor], Tensor] = getattr(self.book, self.activation)
        inner = activation(self.up(x)) if self.gate is None else activation(self.gate(x)) * self.up(x)  # [B T F]
        inner = self.book.drop(inner, self.inner_dropout if self.training else 0.0)
        return self.book.drop(self.down(inner), self.dropout if self.training else 0.0)  # [B T D]
