"""Our side: a loaded model lent out and given back unchanged, run with either book, its numbers by place."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.config import TokenEmbeddingConfig
from minitransformer.model import Transformer
from minitransformer.model.capture import Point, capture, points
from minitransformer.model.stack import Block, Stack
from minitransformer.ops import BOOKS
from minitransformer.parity.values import Values, head_values


@contextmanager
def borrowed(module: nn.Module) -> Iterator[None]:
    """Within the `with`, do anything to a module and to its weights; then all is as before.

    Not a deep copy: whatever else holds the module has to see the changes, such as a function that someone has put in
    the place of its `forward`.
    """
    contents: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for part in module.modules():
        inner = [value for value in vars(part).values() if isinstance(value, dict)]  # its weights, parts and hooks
        contents += [(changed, dict(changed)) for changed in (vars(part), *inner)]
    weights = [(weight, weight.data, weight.grad) for weight in module.parameters()]
    for weight, _, _ in weights:
        weight.grad = None
    try:
        yield
    finally:
        for changed, content in contents:
            changed.clear()
            changed.update(content)
        for weight, data, grad in weights:
            weight.data, weight.grad = data, grad


def open_book(module: nn.Module, name: str) -> None:
    """Have every part compute with that book, but for a part that someone has given a book of its own."""
    for part in module.modules():
        if getattr(part, "book", None) in BOOKS.values():
            part.book = BOOKS[name]  # type: ignore[assignment]


def sides(model: Transformer) -> dict[str, Stack]:
    """The encoder, the decoder, or both, by name."""
    both = {"encoder": model.encoder, "decoder": model.decoder}
    return {side: stack for side, stack in both.items() if stack is not None}


def prefix(side: str, model: Transformer) -> str:
    """What stands before the names of a stack's places: of two stacks, which."""
    return f"{side} " if len(sides(model)) == 2 else ""


def run_ours(model: Transformer, batch: Mapping[str, Tensor], wanted: Collection[str]) -> Values:
    """Our numbers, by place. `wanted`: transformers' places. A table that we lack is what adds or turns nothing."""
    every = points(model)
    stacks = {side: side if prefix(side, model) else "blocks" for side in sides(model)}
    chosen = {
        side: [f"{stack}.0.hook_resid_pre", *(name for name in every if _leaves_block(name, every[name], stack))]
        for side, stack in stacks.items()
    }
    with capture(model, [name for names in chosen.values() for name in names]) as seen:
        output = model(**takeable(model, batch))
    values: Values = {}
    for side, stack in sides(model).items():
        before, (first, *blocks) = prefix(side, model), chosen[side]
        x = seen[first]  # [B T D]
        values[f"{before}embedding"] = x
        if f"{before}rotary positions" in wanted or stack.config.rotary_theta is not None:
            values[f"{before}rotary positions"] = RotaryTable(stack)(x)
        if f"{before}relative bias" in wanted or stack.relative_bias is not None:
            bias = NoBias() if stack.relative_bias is None else stack.relative_bias
            values[f"{before}relative bias"] = bias(x.shape[1], x.shape[1]).expand(1, stack.config.heads, -1, -1)
        values.update({f"{before}block {i}": seen[name] for i, name in enumerate(blocks)})
        if stack.config.final_norm:
            last = output.encoder_last_hidden_state if before == "encoder " else output.last_hidden_state
            values[f"{before}final norm"] = last
    pooled = output.pooler_output
    return {**values, **({"pooler": pooled} if pooled is not None else {}), **head_values(output)}


def takeable(model: Transformer, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that our model takes: without token types, where someone took their table away."""
    config, types = model.embed.config, getattr(model.embed, "types", None)
    no_types = types is None and isinstance(config, TokenEmbeddingConfig) and config.token_types == "learned"
    return {name: x for name, x in batch.items() if not (no_types and name == "token_type_ids")}


class RotaryTable(nn.Module):
    """A stack's rotary positions as one table: cos, and beside it sin. [B T D] -> [1 T 2E]."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, x: Tensor) -> Tensor:
        """x says how many positions, and of what dtype. Without rotary positions, nothing is turned."""
        rotation = self.stack.rotation(x, None, 0)
        if rotation is None:
            still = torch.ones(1, x.shape[1], self.stack.config.d_head, dtype=x.dtype)
            rotation = still, still * 0
        return torch.cat(rotation, dim=-1)


class NoBias(nn.Module):
    """What a stack without a relative bias adds to its scores. -> [1 1 T S]."""

    def forward(self, queries: int, keys: int) -> Tensor:
        """Zeros."""
        return torch.zeros(1, 1, queries, keys)


def _leaves_block(name: str, point: Point, stack: str) -> bool:
    return name.startswith(f"{stack}.") and isinstance(point.module, Block) and point.reads == "out"
