"""The names of everything that can be seen inside a model, and where each is.

Names and meanings are TransformerLens's classic ones, which papers and courses use. What stands before a name says
where: `blocks.{i}.` in a model of one stack; `encoder.{i}.` and `decoder.{i}.` in a model of two. Shapes are given in
the letters of `ops/by_hand.py`. Each meaning is frozen: the tests hold every name against a formula of its own.
"""

import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

from torch import nn

from minitransformer.errors import InputError
from minitransformer.model.stack import Block, Stack
from minitransformer.modules import MultiHeadAttention

# What is read of a module: what enters or leaves it, a head's share of the output projection, or a part of a formula.
Reads = Literal["in", "out", "result", "rot_q", "rot_k", "scores", "pattern", "scale", "normalized"]


class Point(NamedTuple):
    """A place where a tensor can be seen and changed."""

    name: str
    shape: str  # "B H T S"
    meaning: str
    module: nn.Module
    reads: Reads
    d_head: int | None = None  # E, where the module's vectors are those of all heads side by side
    norm: nn.Module | None = None  # of Add & Norm, which computes several times in a block: the time with this norm
    turn: int = 0  # a module that is shared computes several times in a pass: the `turn`-th time of `turns`
    turns: int = 1
    side: Literal["encoder", "decoder"] | None = None  # of a module that both stacks use: when this one does
    within: nn.Module | None = None  # the model whose stacks they are; or the stack, whose passes are counted anew

    def layer(self) -> int | None:
        """The number of the block; None for what is in no block."""
        found = re.search(r"\.(\d+)\.", self.name)
        return None if found is None else int(found[1])


RESIDUAL = "B T D"
TO_BLOCK = "the block's input"
ATTN_OUT = "the self-attention's output, which is added to the stream"
MID = "the stream behind the self-attention"
MID_POST = "the stream behind the self-attention, before its norm"
CROSS_OUT = "the cross-attention's output, which is added to the stream"
POST = "the stream behind the feed-forward, before its norm"
PATTERN = "softmax of the scores; 0 for a query that sees nothing"
MLP_OUT = "the feed-forward's output, which is added to the stream"


def points(model: nn.Module) -> dict[str, Point]:
    """Every point of this model, by name, in the order of the computation's layers."""
    found = list(_embedding_points(model))
    for prefix, stack in stacks(model).items():
        of_stack = "" if prefix == "blocks" else f"{prefix}."
        found.append(Point(f"{of_stack}hook_full_embed", RESIDUAL, "what the embeddings give", stack, "in"))
        order = stack.config.order
        for i, block in enumerate(stack.blocks):
            turn, turns = order[:i].count(order[i]), order.count(order[i])
            for point in _block_points(block, stack):
                name = f"{prefix}.{i}.{point.name}"
                found.append(point._replace(name=name, turn=turn, turns=turns, within=stack))
        if stack.final_norm is not None:
            found += _norm_points(f"{of_stack}ln_final", stack.final_norm)
    return {point.name: point for point in [*found, *_unembed_points(model)]}


def stacks(model: nn.Module) -> dict[str, Stack]:
    """{"blocks": the only stack}, or {"encoder": …, "decoder": …}."""
    found = {name: getattr(model, name) for name in ("encoder", "decoder") if getattr(model, name) is not None}
    return found if len(found) == 2 else {"blocks": next(iter(found.values()))}


def _embedding_points(model: nn.Module) -> Iterator[Point]:
    """What is added up to be a token's vector."""
    last: Any = getattr(model, "target_embed", None) or model.embed
    sides = {"": model.embed} if "blocks" in stacks(model) else {"encoder.": model.embed, "decoder.": last}
    width = "D" if getattr(model.embed, "proj", None) is None else "W"  # a table may be narrower than the model
    rows = "1" if getattr(last.config, "skips_id", None) is None else "B"  # the same places in all texts, or not
    pieces = {
        "hook_embed": ("tokens", f"B T {width}", "the token's row of the table (before the embedding's scale)"),
        "hook_patch_embed": ("patches", "B N D", "the projected patches of an image"),
        "hook_token_type_embed": ("types", f"B T {width}", "the vector of the token's segment"),
        "hook_pos_embed": ("positions", f"{rows} T {width}", "the vector of the token's place"),
    }
    for name, (path, shape, meaning) in pieces.items():
        tables = [getattr(embed, path, None) for embed in sides.values()]
        shared = len(tables) == 2 and tables[0] is tables[1]
        for prefix, table in zip(sides, tables, strict=True):
            if isinstance(table, nn.Module):
                point = Point(f"{prefix}{name}", shape, meaning, table, "out")
                side: Literal["encoder", "decoder"] = "encoder" if prefix == "encoder." else "decoder"
                yield point._replace(side=side, within=model) if shared else point


def _unembed_points(model: nn.Module) -> Iterator[Point]:
    """The language model's last product: hook_in · W_U + b_U = hook_out."""
    projection = getattr(model.head, "lm", None)
    if projection is not None:
        meaning = "what is multiplied with the table of tokens (and the head's scale)"
        place = (projection, "in") if projection.norm is None else (projection.norm, "out")
        width = "B T W" if getattr(model.embed, "proj", None) is not None and projection.norm is not None else RESIDUAL
        yield Point("unembed.hook_in", width, meaning, place[0], place[1])  # type: ignore[arg-type]
        yield Point("unembed.hook_out", "B T V", "the logits of the tokens", projection, "out")


def _block_points(block: Block, stack: Stack) -> Iterator[Point]:
    """The points of one block, in the order of the computation."""
    pre = stack.config.norm_order == "pre"
    add_norm, ffn = block.add_norm, block.ffn
    yield Point("hook_resid_pre", RESIDUAL, TO_BLOCK, block, "in")
    yield from _norm_points("ln1", block.self_attn_norm)
    yield from _attention_points("attn", block.self_attn, rotary=stack.config.rotary_theta is not None)
    yield Point("hook_attn_out", RESIDUAL, ATTN_OUT, block.self_attn, "out")
    if pre:
        yield Point("hook_resid_mid", RESIDUAL, MID, add_norm, "out", norm=block.self_attn_norm)
    else:
        yield Point("hook_resid_mid", RESIDUAL, MID_POST, block.self_attn_norm, "in")
    if block.cross_attn is not None and block.cross_attn_norm is not None:
        yield from _norm_points("ln2", block.cross_attn_norm)
        yield from _attention_points("cross_attn", block.cross_attn, rotary=False)
        yield Point("hook_cross_attn_out", RESIDUAL, CROSS_OUT, block.cross_attn, "out")
        name, meaning = "hook_resid_mid_cross", "the stream behind the cross-attention"
        if pre:
            yield Point(name, RESIDUAL, meaning, add_norm, "out", norm=block.cross_attn_norm)
        else:
            yield Point(name, RESIDUAL, f"{meaning}, before its norm", block.cross_attn_norm, "in")
    yield from _norm_points("ln2" if block.cross_attn is None else "ln3", block.ffn_norm)
    yield Point("mlp.hook_pre", "B T F", "before the activation", ffn.up if ffn.gate is None else ffn.gate, "out")
    if ffn.gate is not None:
        yield Point("mlp.hook_pre_linear", "B T F", "what the activation of the gate is multiplied with", ffn.up, "out")
    yield Point("mlp.hook_post", "B T F", "behind the activation", ffn.down, "in")
    yield Point("hook_mlp_out", RESIDUAL, MLP_OUT, ffn, "out")
    if pre:
        yield Point("hook_resid_post", RESIDUAL, "the block's output", block, "out")
    else:
        yield Point("hook_resid_post", RESIDUAL, POST, block.ffn_norm, "in")
        yield Point("hook_normalized_resid_post", RESIDUAL, "the block's output", block, "out")


def _norm_points(name: str, norm: nn.Module) -> Iterator[Point]:
    yield Point(f"{name}.hook_scale", "B T 1", "what the norm divides by", norm, "scale")
    yield Point(f"{name}.hook_normalized", RESIDUAL, "divided by it, before gain and bias", norm, "normalized")


def _attention_points(name: str, attn: MultiHeadAttention, *, rotary: bool) -> Iterator[Point]:
    keys = "B S G E" if attn.k.out_features != attn.q.out_features else "B S H E"
    width = attn.d_head
    yield Point(f"{name}.hook_q", "B T H E", "queries: x W_Q + b_Q", attn.q, "out", width)
    yield Point(f"{name}.hook_k", keys, "keys: y W_K + b_K", attn.k, "out", width)
    yield Point(f"{name}.hook_v", keys, "values: y W_V + b_V", attn.v, "out", width)
    if rotary:
        yield Point(f"{name}.hook_rot_q", "B T H E", "queries, turned by their positions", attn, "rot_q")
        yield Point(f"{name}.hook_rot_k", keys, "keys, turned by their positions", attn, "rot_k")
    yield Point(f"{name}.hook_attn_scores", "B H T S", "q kᵀ · scale + bias; -∞ where masked", attn, "scores")
    yield Point(f"{name}.hook_pattern", "B H T S", PATTERN, attn, "pattern")
    yield Point(f"{name}.hook_z", "B T H E", "pattern · v", attn.o, "in", width)
    yield Point(f"{name}.hook_result", "B T H D", "each head's z W_O, without b_O", attn.o, "result", width)


# ------------------------------------------------------------------------------------------------------------ choosing


def select(model: nn.Module, names: str | Iterable[str]) -> dict[str, Point]:
    """The points that `names` mean; `*` stands for anything. A name that means nothing is an InputError.

    In a model of one stack its blocks may be called `encoder.{i}.` or `decoder.{i}.`, too, by what the stack is.
    """
    every = points(model)
    chosen: dict[str, Point] = {}
    for name in names_of(names):
        chosen.update(matching(model, every, name))
    return chosen


def names_of(names: str | Iterable[str]) -> list[str]:
    """One name or several, as a list. An InputError for what is no name."""
    several = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else [names]
    for name in several:
        if not isinstance(name, str):
            raise InputError(f'names: got {name!r:.60}, expected names of points: ["*.hook_pattern"]')
    return several


def matching(model: nn.Module, every: Mapping[str, Point], name: str) -> dict[str, Point]:
    """Those of all points that one name means."""
    wanted = canonical(model, name)
    if wanted in every:
        return {wanted: every[wanted]}
    found = {each: point for each, point in every.items() if fnmatchcase(each, wanted)}
    if not found:
        near = get_close_matches(wanted, every, n=3, cutoff=0.3) or list(every)[:3]
        raise InputError(
            f"got the point {name!r}, which this model does not have; try {', '.join(near)} ({layers_of(model)})"
        )
    return found


def canonical(model: nn.Module, name: str) -> str:
    """The name as `points` has it: of TransformerLens's later names those that mean one of these points, too."""
    for side, stack in stacks(model).items():
        if side == "blocks":
            own = "encoder" if getattr(model, "encoder", None) is stack else "decoder"
            name = re.sub(rf"^{own}\.(?=[\d*?[])", "blocks.", name).removeprefix(f"{own}.")
        output = "hook_resid_post" if stack.config.norm_order == "pre" else "hook_normalized_resid_post"
        name = re.sub(rf"^({side}\.[^.]+)\.hook_in$", r"\1.hook_resid_pre", name)
        name = re.sub(rf"^({side}\.[^.]+)\.hook_out$", rf"\1.{output}", name)
    return re.sub(r"\.attn\.([qkv])\.hook_out$", r".attn.hook_\1", name)


def layers_of(model: nn.Module) -> str:
    """Which layers and heads there are, for messages."""
    of_each = (
        f"{'' if name == 'blocks' else f'{name} '}layers 0 to {len(stack.blocks) - 1}, "
        f"heads 0 to {stack.config.heads - 1}"
        for name, stack in stacks(model).items()
    )
    return "; ".join(of_each)


# --------------------------------------------------------------------------------------------------------------- heads


def place_in(name: str, number: object, count: int, *, from_the_end: bool = True) -> int:
    """The number as an int, -1 for the last of `count`. An InputError for what is no place there."""
    try:
        place = count if isinstance(number, bool) else operator.index(number)  # type: ignore[arg-type]
    except TypeError:
        place = count
    if not (-count if from_the_end else 0) <= place < count:
        raise InputError(
            f"{name}: got {number!r:.60}, expected 0 to {count - 1}{', or -1 for the last' * from_the_end}"
        )
    return place % count


@dataclass(frozen=True)
class Heads:
    """The heads of one kind of attention, in all blocks of a stack."""

    stack: Stack
    prefix: str  # "blocks.{}.attn", "decoder.{}.cross_attn"

    @property
    def layers(self) -> int:
        """How many blocks compute."""
        return len(self.stack.blocks)

    def point(self, layer: int, part: str) -> str:
        """The name of a point: part "pattern" of layer 3 is "blocks.3.attn.hook_pattern". -1 is the last layer."""
        return f"{self.prefix.format(place_in('layer', layer, self.layers))}.hook_{part}"

    def block_point(self, layer: int, part: str) -> str:
        """The name of a point of the block: "attn_out" of a cross-attention is "decoder.3.hook_cross_attn_out"."""
        block = self.prefix.format(place_in("layer", layer, self.layers)).rpartition(".")[0]
        return f"{block}.hook_{'cross_' * (self.crosses and part == 'attn_out')}{part}"

    @property
    def crosses(self) -> bool:
        """Whether the keys are another stack's."""
        return self.prefix.endswith("cross_attn")

    def module(self, layer: int) -> MultiHeadAttention:
        """The attention that computes in that layer."""
        block = self.stack.blocks[layer]
        found = block.cross_attn if self.crosses else block.self_attn
        assert found is not None
        return found

    def head(self, number: int) -> int:
        """The number of a head. An InputError for one that does not exist."""
        return place_in("head", number, self.stack.config.heads, from_the_end=False)


def heads_of(model: nn.Module, attention: str | None = None) -> Heads:
    """The heads of that kind: "encoder", "decoder" or "cross"; None is the self-attention of the only stack."""
    there = kinds_of_attention(model)
    if attention is None and len(there) > 1:
        raise InputError(f"attention: this model has several kinds; say which: {', '.join(there)}")
    kind = next(iter(there)) if attention is None else attention
    if kind not in there:
        raise InputError(f"attention: got {attention!r}, expected {' or '.join(there)}: this model has no other")
    return there[kind]


def kinds_of_attention(model: nn.Module) -> dict[str, Heads]:
    """Each kind of attention that the model has, by name, in the order of the computation."""
    model = getattr(model, "transformer", model)
    two = len(stacks(model)) == 2
    found = {}
    for side in ("encoder", "decoder"):
        stack: Stack | None = getattr(model, side)
        if stack is not None:
            prefix = f"{side if two else 'blocks'}.{{}}"
            found[side] = Heads(stack, f"{prefix}.attn")
            if two and stack.config.cross_attention:
                found["cross"] = Heads(stack, f"{prefix}.cross_attn")
    return found
