"""Multi-head attention: H heads look at the sequence side by side."""

from torch import Tensor, nn

from minitransformer.config import StackConfig
from minitransformer.modules.cache import KeysAndValues
from minitransformer.ops import BOOKS, Book


class MultiHeadAttention(nn.Module):
    """Concat(head₁ … head_H) W_O, where headᵢ = attention(x W_Qᵢ, y W_Kᵢ, y W_Vᵢ). Vaswani et al. 2017, section 3.2.2.

    In self-attention y is x; in cross-attention y is `memory`, the encoder's output. The H matrices W_Qᵢ stand side by
    side in one matrix q, as do those of k and v.
    """

    book: Book = BOOKS["fused"]

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = config.d_head**-0.5 if config.score_scale is None else config.score_scale
        self.dropout = config.attention_dropout
        self.q = nn.Linear(config.d_model, config.d_model)
        self.k = nn.Linear(config.d_model, config.d_model)
        self.v = nn.Linear(config.d_model, config.d_model)
        self.o = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        cache: KeysAndValues | None = None,
    ) -> Tensor:
        """x [B T D], memory [B S D], mask bool [B|1 1 T|1 S] (True: may attend) -> [B T D]."""
        q = self.split_heads(self.q(x))  # [B H T E]
        if memory is not None and cache is not None and cache.k is not None and cache.v is not None:
            k, v = cache.k, cache.v  # the encoder's output stays the same from step to step
        else:
            source = x if memory is None else memory
            k = self.split_heads(self.k(source))  # [B H S E]
            v = self.split_heads(self.v(source))  # [B H S E]
            if cache is not None:
                k, v = cache.append(k, v)
        dropout = self.dropout if self.training else 0.0
        z = self.book.attention(q, k, v, mask=mask, scale=self.scale, dropout=dropout)  # [B H T E]
        return self.o(self.merge_heads(z))

    def split_heads(self, x: Tensor) -> Tensor:
        """[B T D] -> [B H T E]: head h owns columns h·E to (h+1)·E - 1."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def merge_heads(self, z: Tensor) -> Tensor:
        """[B H T E] -> [B T D]: the heads side by side again."""
        return z.transpose(1, 2).flatten(-2)
