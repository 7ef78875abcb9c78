"""Suspects: what an embedding adds to its tokens, and the tables that say where a token stands."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.config import RelativePositionsConfig
from minitransformer.model.heads import States
from minitransformer.modules import RelativeBias
from minitransformer.ops import BOOKS
from minitransformer.parity.changes import Changes, Weights, children, having, set_all
from minitransformer.parity.ours import NoBias, RotaryTable
from minitransformer.parity.parts import Part
from minitransformer.parity.weights import put_right

BASES = (1e4, 1e5, 5e5, 1e6)
FARTHEST = 513  # the largest max_distance that is tried, and one more


def shifted_positions(part: Part, weights: Weights) -> Changes:
    """Positions counted from somewhere else."""
    for module in children(part, "positions"):
        for shift, words in ((1, "one"), (-1, "one"), (2, "two"), (-2, "two")):
            claim = f"positions are off by {words}: transformers' are ours {shift:+d}"
            yield claim, partial(module.register_forward_pre_hook, partial(_shift, shift))


def dropped(part: Part, weights: Weights) -> Changes:
    """Token types or positions that are not added to the tokens."""
    own = part.own(weights)
    for tokens in children(part, "tokens"):
        types = part.reads.get("token_type_ids")  # [B T]
        if types is not None:
            table = own.get("types.weight", own.get("tokens.weight", tokens.weight))
            yield "token types are dropped", partial(_add, part, tokens, table[types])
            added = table[types] - table[0]
            yield "token types are dropped: each is taken as 0", partial(_add, part, tokens, added)
        positions = _positions(part.module, part.reads["input_ids"], own)
        if positions is not None:
            yield "positions are dropped", partial(_add, part, tokens, positions)


def token_scale(part: Part, weights: Weights) -> Changes:
    """The factor on the tokens' vectors."""
    for tokens in children(part, "tokens"):
        config: Any = part.module.config
        for says, right in _scales(tokens.weight.shape[1]):
            claim = f"the scale of the tokens: ours is {config.scale:.4g}, transformers' numbers fit {says}"
            yield claim, partial(setattr, part.module, "config", replace(config, scale=right))


def head_scale(part: Part, weights: Weights) -> Changes:
    """The factor on what a language model's head reads."""
    for path, module in having(part, "scale").items():
        for says, right in _scales(part.args[0].hidden.shape[-1]) if isinstance(part.args[0], States) else ():
            claim = f"the scale of {path}: ours is {module.scale:.4g}, transformers' numbers fit {says}"
            yield claim, partial(set_all, [module], "scale", right)


def rotary_base(part: Part, weights: Weights) -> Changes:
    """The base of the rotary positions: the wavelengths' common factor."""
    table = part.module
    length, d_head = part.expected.shape[1], part.expected.shape[2] // 2
    if not isinstance(table, RotaryTable) or length < 2 or d_head < 4:
        return
    stack, (cos, sin) = table.stack, part.expected[0, 1].chunk(2)  # [E] each, of position 1
    angle = float(torch.atan2(sin[1], cos[1]).clamp(min=1e-6))  # base^(-2/E)
    estimate = angle ** (-d_head / 2)
    for base in (*BASES, float(round(estimate)), estimate):
        fits = f"transformers' numbers fit {base:g}"
        ours = "they are missing" if stack.config.rotary_theta is None else f"ours is {stack.config.rotary_theta:g}"
        right = replace(stack.config, rotary_theta=base)
        yield f"the base of the rotary positions: {ours}, {fits}", partial(setattr, stack, "config", right)


def relative_bias(part: Part, weights: Weights) -> Changes:
    """The bias of distances: missing, of one direction instead of two, or with far distances in other buckets."""
    weight = part.own(weights).get("weight")
    if weight is None or not isinstance(part.module, RelativeBias | NoBias):
        return
    near = len(weight) // 2
    for distance in (max(128, near + 1), *range(near + 1, FARTHEST)):
        for both in (True, False):
            config = RelativePositionsConfig(buckets=len(weight), max_distance=distance)
            right = RelativeBias(config, weight.shape[1], bidirectional=both)
            put_right(right, {"weight": weight})
            yield _of_bias(part.module, right), partial(setattr, part, "module", right)


def _of_bias(ours: RelativeBias | NoBias, right: RelativeBias) -> str:
    if isinstance(ours, NoBias):
        return "the relative bias is missing"
    if ours.bidirectional != right.bidirectional:
        directions = "both directions" if right.bidirectional else "one direction"
        return f"the relative bias: transformers' numbers fit {directions}"
    far = f"a max_distance of {right.config.max_distance}"
    return f"the relative bias: ours has {ours.config.max_distance} as max_distance, transformers' numbers fit {far}"


def _scales(width: int) -> tuple[tuple[str, float], ...]:
    return ("1", 1.0), ("√D", width**0.5), ("1/√D", width**-0.5)


def _positions(embed: Any, ids: Tensor, own: Mapping[str, Tensor]) -> Tensor | None:
    """The vectors of the positions of these tokens: [B|1 T D]."""
    rows = embed.default_positions(ids, 0)  # [B|1 T]
    if "positions.weight" in own:
        return own["positions.weight"][rows]
    if embed.config.positions is None:
        return None
    found: Tensor = getattr(BOOKS["by_hand"], embed.config.positions)(rows, embed.config.d_table)
    return found


def _shift(shift: int, _: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] + shift,)


def _add(part: Part, tokens: nn.Module, added: Tensor) -> None:
    factor: Any = part.module.config.scale  # type: ignore[union-attr]
    tokens.register_forward_hook(lambda _, args, output: output + added / factor)
