"""A stack of blocks. Encoder and decoder are the same class: the config says what differs."""

from typing import cast

from torch import Tensor, nn

from minitransformer.config import StackConfig
from minitransformer.modules import NORMS, AddNorm, FeedForward, KVCache, MultiHeadAttention, RelativeBias
from minitransformer.modules.attention import Rotation
from minitransformer.modules.cache import KeysAndValues
from minitransformer.modules.positions import consecutive
from minitransformer.ops import BOOKS, Book


class Block(nn.Module):
    """Self-attention, perhaps cross-attention, feed-forward: each with its residual connection and its norm.

    Vaswani et al. 2017, figure 1: the left box without cross-attention, the right box with it.
    """

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        norm = NORMS[config.norm]
        self.add_norm = AddNorm(config.norm_order)
        self.self_attn = MultiHeadAttention(config)
        self.self_attn_norm = norm(config.d_model, config.norm_eps)
        self.cross_attn = MultiHeadAttention(config) if config.cross_attention else None
        self.cross_attn_norm = norm(config.d_model, config.norm_eps) if config.cross_attention else None
        self.ffn = FeedForward(config)
        self.ffn_norm = norm(config.d_model, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: KeysAndValues | None = None,
        memory_cache: KeysAndValues | None = None,
    ) -> Tensor:
        """x [B T D], memory [B S D] -> [B T D]. Without a memory, there is no cross-attention."""
        self_attn = lambda h: self.self_attn(h, mask=mask, bias=bias, rotation=rotation, cache=cache)
        x = self.add_norm(x, self.self_attn_norm, self_attn)
        if self.cross_attn is not None and memory is not None:
            cross_attn = self.cross_attn
            x = self.add_norm(
                x, self.cross_attn_norm, lambda h: cross_attn(h, memory, mask=memory_mask, cache=memory_cache)
            )
        return self.add_norm(x, self.ffn_norm, self.ffn)


class Stack(nn.Module):
    """N blocks, one after the other, and perhaps a last norm."""

    book: Book = BOOKS["fused"]

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        relative = config.relative_positions
        self.relative_bias = (
            None if relative is None else RelativeBias(relative, config.heads, bidirectional=not config.causal)
        )
        self.final_norm = NORMS[config.norm](config.d_model, config.norm_eps) if config.final_norm else None

    @property
    def blocks(self) -> list[Block]:
        """The blocks, in the order of the computation. Where layers are shared, a block is there more than once."""
        layers = cast("list[Block]", list(self.layers))
        return [layers[i] for i in self.config.order]

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """x [B T D], position_ids int [B|1 T] (for rotary positions), memory [B S D] -> [B T D].

        Masks as in `masks.py`; the cache is written to.
        """
        past = 0 if cache is None else cache.length
        rotation = self.rotation(x, position_ids, past)
        bias = None if self.relative_bias is None else self.relative_bias(x.shape[1], past + x.shape[1])  # [1 H T S]
        for i, block in enumerate(self.blocks):
            x = block(
                x,
                mask=mask,
                bias=bias,
                rotation=rotation,
                memory=memory,
                memory_mask=memory_mask,
                cache=None if cache is None else cache.self_attn[i],
                memory_cache=None if cache is None else cache.cross_attn[i],
            )
        x = x if self.final_norm is None else self.final_norm(x)
        return self.book.drop(x, self.config.final_dropout if self.training else 0.0)

    def rotation(self, x: Tensor, position_ids: Tensor | None, past: int) -> Rotation | None:
        """cos and sin of each position's angles, [B|1 T E] each, where the model has rotary positions."""
        if self.config.rotary_theta is None:
            return None
        if position_ids is None:
            position_ids = consecutive(x.shape[1], past=past, device=x.device)  # [1 T]
        cos, sin = self.book.rotary_table(position_ids, self.config.d_head, self.config.rotary_theta)
        return cos.to(x.dtype), sin.to(x.dtype)
