"""The same computation with nothing between the kernels.

Calling a module costs Python a few microseconds, and a decoder calls dozens of them for each token: in a small model
that takes longer than the arithmetic. `flat(module)` is what the module computes in evaluation, as a plain function of
the weights it holds now, with the formulas of its book. Read `modules/` and `model/stack.py` to learn what is computed;
here each of them stands once more, without its `self`, and the tests hold the two equal.

What they take may also be one vector, [D]: the only token of the only text. A matrix times a vector is less to set
up than a product of matrices. A module that is not one of ours, or has hooks, is called as it is.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from minitransformer.model.heads.language import LanguageModelProjection
from minitransformer.model.stack import Block, Stack
from minitransformer.modules import (
    AddNorm,
    FeedForward,
    KVCache,
    LayerNorm,
    MultiHeadAttention,
    RMSNorm,
    TokenEmbedding,
)
from minitransformer.modules.attention import Rotation
from minitransformer.modules.cache import KeysAndValues
from minitransformer.ops import BOOKS

Function = Callable[[Tensor], Tensor]


def flat(module: nn.Module) -> Callable[..., Tensor]:
    """The function that `module` is, in evaluation."""
    flatten = FLATTEN.get(type(module))
    return flatten(module) if flatten is not None and _plain(module, type(module)) else _called(module)


def _called(module: nn.Module) -> Callable[..., Tensor]:
    """The module itself, to which a vector is a batch of one text of one token."""

    def call(x: Tensor, *inputs: Any, **options: Any) -> Tensor:
        return module(x[None, None], *inputs, **options)[0, 0] if x.ndim == 1 else module(x, *inputs, **options)

    return call


def _plain(module: nn.Module | None, kind: type[nn.Module]) -> bool:
    """Whether calling the module is computing what its class says, and no more."""
    if module is None:
        return True
    return (
        type(module) is kind
        and getattr(module, "book", None) in (None, *BOOKS.values())  # no formula is opened
        and not (module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module))
    )


def _linear(module: nn.Linear) -> Function:
    return _affine(module.weight, module.bias)


def _affine(weight: Tensor, bias: Tensor | None) -> Function:
    """x Wᵀ + b: [... D] -> [... V]."""
    if bias is None:
        return lambda x: torch.mv(weight, x) if x.ndim == 1 else nn.functional.linear(x, weight)
    return lambda x: torch.addmv(bias, weight, x) if x.ndim == 1 else nn.functional.linear(x, weight, bias)


def _layer_norm(module: LayerNorm) -> Function:
    layer_norm, weight, bias, eps = module.book.layer_norm, module.weight, module.bias, module.eps
    return lambda x: layer_norm(x, weight, bias, eps)


def _rms_norm(module: RMSNorm) -> Function:
    rms_norm, weight, eps = module.book.rms_norm, module.weight, module.eps
    return lambda x: rms_norm(x, weight, eps)


def _feed_forward(module: FeedForward) -> Function:
    activation: Function = getattr(module.book, module.activation)
    up, down = flat(module.up), flat(module.down)
    if module.gate is None:
        return lambda x: down(activation(up(x)))
    gate = flat(module.gate)
    return lambda x: down(activation(gate(x)) * up(x))


def _attention(module: MultiHeadAttention) -> Callable[..., Tensor]:
    book, scale, width = module.book, module.scale, module.d_head
    to_q, to_k, to_v, to_o = flat(module.q), flat(module.k), flat(module.v), flat(module.o)
    to_qkv = _side_by_side(module.q, module.k, module.v)
    q_norm = None if module.q_norm is None else flat(module.q_norm)
    k_norm = None if module.k_norm is None else flat(module.k_norm)

    def split_heads(x: Tensor) -> Tensor:
        """[B T H·E] -> [B H T E]. A single token needs no transposing."""
        batch, length = _sizes(x)
        if length == 1:
            return x.view(batch, -1, 1, width)
        return x.view(batch, length, -1, width).transpose(1, 2)

    def attend(
        x: Tensor,
        memory: Tensor | None = None,
        *,
        mask: Tensor | None,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
        cache: KeysAndValues,
    ) -> Tensor:
        """`MultiHeadAttention.forward`: x [B T D] or [D], memory [B S D] -> like x."""
        batch, length = _sizes(x)
        k = v = None
        if to_qkv is not None and memory is None:
            q, k, v = to_qkv(x).view(batch, length, 3, -1, width).transpose(1, 3).unbind(2)  # [B H T E]
        else:
            q = split_heads(to_q(x))  # [B H T E]
        if q_norm is not None:
            q = q_norm(q)
        if rotation is not None:
            q = book.rotary(q, *rotation)
        if memory is not None and cache.k is not None and cache.v is not None:
            k, v = cache.k, cache.v  # [B G S E]
        else:
            if k is None or v is None:
                source = x if memory is None else memory
                k, v = split_heads(to_k(source)), split_heads(to_v(source))  # [B G S E]
            if k_norm is not None:
                k = k_norm(k)
            if rotation is not None:
                k = book.rotary(k, *rotation)
            k, v = cache.append(k, v)
        z = book.attention(q, k, v, mask=mask, bias=bias, scale=scale)  # [B H T E]
        z = z if length == 1 else z.transpose(1, 2)  # heads of a token side by side
        return to_o(z.reshape(*x.shape[:-1], -1))  # [B T D]

    return attend


def _sizes(x: Tensor) -> tuple[int, int]:
    """How many texts, and how many tokens of each."""
    return (1, 1) if x.ndim == 1 else (x.shape[0], x.shape[1])


def _side_by_side(*modules: nn.Linear) -> Function | None:
    """All of `modules` in one product, if their matrices are neighbours in memory, as in a file that keeps them in one.

    One large product takes less time than three small ones of its size.
    """
    if not all(_plain(module, nn.Linear) for module in modules):
        return None
    first, size = modules[0], len(modules[0].weight)
    for i, module in enumerate(modules):
        if not all(
            one is not None
            and other is not None
            and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
            and one.shape == other.shape
            and one.stride() == other.stride()
            and one.storage_offset() + i * size * one.stride(0) == other.storage_offset()
            for one, other in ((first.weight, module.weight), (first.bias, module.bias))
        ):
            return None
    weight = first.weight.as_strided((len(modules) * size, first.in_features), first.weight.stride())
    bias = first.bias.as_strided((len(modules) * size,), first.bias.stride())
    return _affine(weight, bias)


def _block(module: Block) -> Callable[..., Tensor]:
    if not _plain(module.add_norm, AddNorm):
        return _called(module)
    pre = module.add_norm.order == "pre"
    self_attn, self_attn_norm = flat(module.self_attn), flat(module.self_attn_norm)
    ffn, ffn_norm = flat(module.ffn), flat(module.ffn_norm)
    crosses = module.cross_attn is not None and module.cross_attn_norm is not None
    cross_attn = flat(module.cross_attn) if module.cross_attn is not None else self_attn
    cross_attn_norm = flat(module.cross_attn_norm) if module.cross_attn_norm is not None else self_attn_norm

    def compute(
        x: Tensor,
        *,
        memory: Tensor | None,
        memory_mask: Tensor | None,
        cache: KeysAndValues,
        memory_cache: KeysAndValues,
        mask: Tensor | None,
        bias: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """`Block.forward`: x [B T D] or [D] -> like x."""
        h = self_attn(self_attn_norm(x) if pre else x, mask=mask, bias=bias, rotation=rotation, cache=cache)  # [B T D]
        x = x + h if pre else self_attn_norm(x + h)
        if crosses and memory is not None:
            h = cross_attn(cross_attn_norm(x) if pre else x, memory, mask=memory_mask, cache=memory_cache)
            x = x + h if pre else cross_attn_norm(x + h)
        h = ffn(ffn_norm(x) if pre else x)
        return x + h if pre else ffn_norm(x + h)

    return compute


def _stack(module: Stack) -> Callable[..., Tensor]:
    blocks = [flat(block) for block in module.blocks]
    final_norm = None if module.final_norm is None else flat(module.final_norm)
    relative_bias, rotary = module.relative_bias, module.config.rotary_theta is not None

    def compute(
        x: Tensor,
        *,
        mask: Tensor | None,
        position_ids: Tensor | None,
        memory: Tensor | None,
        memory_mask: Tensor | None,
        cache: KVCache,
    ) -> Tensor:
        """`Stack.forward`: x [B T D] or [D] -> like x; the cache is written to."""
        past, length = cache.length, _sizes(x)[1]
        rotation = module.rotation(x, position_ids, past) if rotary else None
        bias = None if relative_bias is None else relative_bias(length, past + length)  # [1 H T S]
        for block, kept, kept_memory in zip(blocks, cache.self_attn, cache.cross_attn, strict=True):
            x = block(
                x,
                memory=memory,
                memory_mask=memory_mask,
                cache=kept,
                memory_cache=kept_memory,
                mask=mask,
                bias=bias,
                rotation=rotation,
            )
        return x if final_norm is None else final_norm(x)

    return compute


def _embedding(module: TokenEmbedding) -> Callable[..., Tensor]:
    positions = module.positions
    looked_up = (module.tokens, module.types, positions if isinstance(positions, nn.Embedding) else None)
    if not all(_plain(table, nn.Embedding) for table in looked_up):
        return module
    tokens, scale = module.tokens.weight, module.config.scale
    table = positions.weight if isinstance(positions, nn.Embedding) else None
    first_type = None if module.types is None else module.types.weight[0]
    norm = None if module.norm is None else flat(module.norm)
    proj = None if module.proj is None else flat(module.proj)

    def embed(ids: Tensor, *, position_ids: Tensor | None) -> Tensor:
        """Ids are not checked: a model chose them."""
        x = torch.embedding(tokens, ids)  # [B T D]
        if scale != 1:
            x = x * scale
        if first_type is not None:
            x = x + first_type
        if table is not None and position_ids is not None:
            x = x + torch.embedding(table, position_ids)
        elif positions is not None:
            x = x + positions(position_ids).to(x.dtype)
        x = x if norm is None else norm(x)
        return x if proj is None else proj(x)

    return embed


def _projection(module: LanguageModelProjection) -> Callable[[Tensor, Tensor | None], Tensor]:
    own, bias, scale = module.weight, module.bias, module.scale
    if module.activation is not None or not isinstance(bias, Tensor | None):
        return _called(module)

    def project(x: Tensor, table: Tensor | None) -> Tensor:
        matrix = cast("Tensor", table if own is None else own)
        return _affine(matrix, bias)(x if scale == 1 else x * scale)

    return project


FLATTEN: dict[type[nn.Module], Callable[[Any], Callable[..., Tensor]]] = {
    nn.Linear: _linear,
    LayerNorm: _layer_norm,
    RMSNorm: _rms_norm,
    FeedForward: _feed_forward,
    MultiHeadAttention: _attention,
    Block: _block,
    Stack: _stack,
    TokenEmbedding: _embedding,
    LanguageModelProjection: _projection,
}
