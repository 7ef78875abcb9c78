"""Multi-head attention: H heads look at the sequence side by side."""

from torch import Tensor, nn

from minitransformer.config import StackConfig
from minitransformer.modules.cache import KeysAndValues
from minitransformer.modules.norm import RMSNorm
from minitransformer.ops import BOOKS, Book

Rotation = tuple[Tensor, Tensor]  # cos and sin, [B|1 T E] each


class MultiHeadAttention(nn.Module):
    """Concat(head₁ … head_H) W_O, where headᵢ = attention(x W_Qᵢ, y W_Kᵢ, y W_Vᵢ). Vaswani et al. 2017, section 3.2.2.

    In self-attention y is x; in cross-attention y is `memory`, the encoder's output. The H matrices W_Qᵢ stand side by
    side in one matrix q, as do those of k and v. k and v may have fewer heads, G, each of which serves H/G query heads.
    Dropout falls on the weights and on the output (section 5.4).
    """

    book: Book = BOOKS["fused"]

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.heads, self.d_head = config.heads, config.d_head
        self.scale = config.d_head**-0.5 if config.score_scale is None else config.score_scale
        self.weights_dropout, self.dropout = config.attention_dropout, config.dropout
        d_query, d_key = config.heads * config.d_head, (config.kv_heads or config.heads) * config.d_head
        self.q = nn.Linear(config.d_model, d_query, "qkv" in config.biases)
        self.k = nn.Linear(config.d_model, d_key, "qkv" in config.biases)
        self.v = nn.Linear(config.d_model, d_key, "qkv" in config.biases)
        self.o = nn.Linear(d_query, config.d_model, "o" in config.biases)
        self.q_norm = RMSNorm(config.d_head, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.d_head, config.norm_eps) if config.qk_norm else None

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: KeysAndValues | None = None,
    ) -> Tensor:
        """x [B T D], memory [B S D], mask bool [B|1 1 T|1 S] (True: may attend), bias [1 H T S] -> [B T D].

        `rotation`: cos and sin of the T positions, [B|1 T E] each, by which queries and keys are turned.
        """
        q = self.split_heads(self.q(x))  # [B H T E]
        if self.q_norm is not None:
            q = self.q_norm(q)
        if rotation is not None:
            q = self.book.rotary(q, *rotation)
        if memory is not None and cache is not None and cache.k is not None and cache.v is not None:
            k, v = cache.k, cache.v  # the encoder's output stays the same from step to step
        else:
            source = x if memory is None else memory
            k, v = self.split_heads(self.k(source)), self.split_heads(self.v(source))  # [B G S E]
            if self.k_norm is not None:
                k = self.k_norm(k)
            if rotation is not None:
                k = self.book.rotary(k, *rotation)
            if cache is not None:
                k, v = cache.append(k, v)
        dropout = self.weights_dropout if self.training else 0.0
        z = self.book.attention(q, k, v, mask=mask, bias=bias, scale=self.scale, dropout=dropout)  # [B H T E]
        return self.book.drop(self.o(self.merge_heads(z)), self.dropout if self.training else 0.0)

    def split_heads(self, x: Tensor) -> Tensor:
        """[B T H·E] -> [B H T E]: head h owns columns h·E to (h+1)·E - 1."""
        return x.unflatten(-1, (-1, self.d_head)).transpose(1, 2)

    def merge_heads(self, z: Tensor) -> Tensor:
        """[B H T E] -> [B T H·E]: the heads side by side again."""
        return z.transpose(1, 2).flatten(-2)
