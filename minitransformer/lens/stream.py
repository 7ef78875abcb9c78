"""The residual stream that the head reads in the end: its stages, what wrote to it, and how it is read.

Of two stacks it is the decoder's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.model import Transformer, hooks
from minitransformer.model.heads import LanguageModelProjection
from minitransformer.model.inside import run_with_cache
from minitransformer.model.points import Point, stacks
from minitransformer.model.stack import Block, Stack
from minitransformer.modules import LayerNorm

SUBLAYERS = {"attn": "attn", "cross_attn": "cross attn", "mlp": "mlp"}  # in points' names -> in words


def stages(model: Transformer, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stream at each stage: "embedding", what the embeddings give, then "block 0", … -> [1 T D] each."""
    prefix, stack = last_stack(model)
    points = {"embedding": _of_stack(prefix, "hook_full_embed")}
    points |= {f"block {i}": f"{prefix}.{i}.hook_out" for i in range(len(stack.blocks))}
    _, cache = run_with_cache(model, batch, names=points.values())
    return {stage: cache[point] for stage, point in points.items()}


def read_out(model: Transformer, x: Tensor) -> Tensor:
    """The final norm, where there is one, and the head: the very steps behind the last block. [1 T D] -> [1 T V]."""
    _, stack = last_stack(model)
    return model.token_logits(x if stack.final_norm is None else stack.final_norm(x))


@dataclass(frozen=True, eq=False)
class Written:
    """What one part of the model wrote to the stream at one position."""

    layer: int | None  # None: it is in no block
    part: str  # "embedding", "attn", "head 3", "b_O", "cross attn", "cross head 3", "cross b_O", "mlp"
    vector: Tensor  # float64 [D]


def written(
    model: Transformer, batch: Mapping[str, Tensor], place: int, *, by_heads: bool
) -> tuple[Tensor, Tensor | None, list[Written]]:
    """The logits [V] at a place, what the final norm divides by there, and what was written: it adds up to the stream.

    by_heads: each head by itself, and W_O's bias apart.
    """
    prefix, stack = last_stack(model)
    start, scale = (_of_stack(prefix, name) for name in ("hook_full_embed", "ln_final.hook_scale"))
    names = {
        (layer, part): f"{prefix}.{layer}.{part}.hook_result"
        if by_heads and part != "mlp"
        else f"{prefix}.{layer}.hook_{part}_out"
        for layer, block in enumerate(stack.blocks)
        for part in SUBLAYERS
        if part != "cross_attn" or block.cross_attn is not None
    }
    norm = [] if stack.final_norm is None else [scale]
    seen = _at(model, batch, [start, *names.values(), *norm, "unembed.hook_out"], place)
    found = [Written(None, "embedding", seen[start])]
    for (layer, part), name in names.items():
        found += _apart(layer, part, stack.blocks[layer], seen[name])
    return seen["unembed.hook_out"], seen.get(scale), found


def direction(model: Transformer, unembedding: Tensor, scale: Tensor | None) -> Tensor:
    """The vector whose product with what was written is its share of a logit: W_U's [D], seen through the norm -> [D].

    With gain g, mean m and scale s, the norm makes g (x - m) / s of x: linear in x, where s is given.
    """
    norm = last_stack(model)[1].final_norm
    if norm is None or scale is None:
        return unembedding
    read = unembedding * norm.weight.double() / scale
    return read - read.mean() if isinstance(norm, LayerNorm) else read  # what is written brings its own mean


def unembedding_of(model: Transformer, ids: list[int]) -> tuple[Tensor, Tensor | None]:
    """The columns of W_U for these tokens as rows, [N D], and of b_U, [N], in float64."""
    projection = cast("LanguageModelProjection", model.projection())
    matrix = model.table() if projection.weight is None else projection.weight
    if matrix is None:
        raise InputError("this model has no table of tokens")
    bias = None if projection.bias is None else projection.bias[ids].double()
    return matrix[ids].double() * projection.scale, bias


def last_stack(model: Transformer) -> tuple[str, Stack]:
    """The stack that the head stands on, and what its blocks' points begin with."""
    return list(stacks(model).items())[-1]


def _of_stack(prefix: str, name: str) -> str:
    return name if prefix == "blocks" else f"{prefix}.{name}"


def _at(model: Transformer, batch: Mapping[str, Tensor], names: list[str], place: int) -> dict[str, Tensor]:
    """The points of one pass at one position, in float64. Nothing else is kept: heads' results are large."""
    seen: dict[str, Tensor] = {}

    def keep(x: Tensor, hook: Point) -> None:
        seen[hook.name] = x[0, place].double()

    with hooks(model, [(name, keep) for name in names]):
        model(**batch)
    return seen


def _apart(layer: int, part: str, block: Block, x: Tensor) -> list[Written]:
    """What a sub-layer wrote, [D]; or each of its heads, [H D], and then W_O's bias."""
    if x.ndim == 1:
        return [Written(layer, SUBLAYERS[part], x)]
    attention, cross = (block.self_attn, "") if part == "attn" else (block.cross_attn, "cross ")
    found = [Written(layer, f"{cross}head {head}", vector) for head, vector in enumerate(x)]
    if attention is not None and attention.o.bias is not None:
        found.append(Written(layer, f"{cross}b_O", attention.o.bias.double()))
    return found
