"""A block, and a stack of blocks. Encoder and decoder are the same class: the config says what differs."""

from typing import cast

from torch import Tensor, nn

from minitransformer.config import StackConfig
from minitransformer.modules import AddNorm, FeedForward, KVCache, LayerNorm, MultiHeadAttention
from minitransformer.modules.cache import KeysAndValues


class Block(nn.Module):
    """Self-attention, perhaps cross-attention, feed-forward: each with its residual connection and its norm.

    Vaswani et al. 2017, figure 1: the left box without cross-attention, the right box with it.
    """

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.add_norm = AddNorm(config.norm_order, config.dropout)
        self.self_attn = MultiHeadAttention(config)
        self.self_attn_norm = LayerNorm(config.d_model, config.norm_eps)
        self.cross_attn = MultiHeadAttention(config) if config.cross_attention else None
        self.cross_attn_norm = LayerNorm(config.d_model, config.norm_eps) if config.cross_attention else None
        self.ffn = FeedForward(config)
        self.ffn_norm = LayerNorm(config.d_model, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: KeysAndValues | None = None,
        memory_cache: KeysAndValues | None = None,
    ) -> Tensor:
        """x [B T D], memory [B S D] -> [B T D]."""
        x = self.add_norm(x, self.self_attn_norm, lambda h: self.self_attn(h, mask=mask, cache=cache))
        if self.cross_attn is not None:
            cross_attn = self.cross_attn
            x = self.add_norm(
                x, self.cross_attn_norm, lambda h: cross_attn(h, memory, mask=memory_mask, cache=memory_cache)
            )
        return self.add_norm(x, self.ffn_norm, self.ffn)


class Stack(nn.Module):
    """N blocks, one after the other, and perhaps a last norm."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = LayerNorm(config.d_model, config.norm_eps) if config.final_norm else None

    @property
    def blocks(self) -> list[Block]:
        """The blocks, first to last."""
        return cast("list[Block]", list(self.layers))

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """x [B T D], memory [B S D] -> [B T D]. Masks as in `masks.py`; the cache is written to."""
        for i, block in enumerate(self.blocks):
            x = block(
                x,
                mask=mask,
                memory=memory,
                memory_mask=memory_mask,
                cache=None if cache is None else cache.self_attn[i],
                memory_cache=None if cache is None else cache.cross_attn[i],
            )
        return x if self.final_norm is None else self.final_norm(x)
