"""The one seam for looking inside: name what you want to see, run the model, read it.

    with capture(model, ["blocks.0.attn.hook_pattern", "*hook_resid_post"]) as seen:
        model(**batch)
    seen["blocks.0.attn.hook_pattern"]    # [B H T S]

Names and meanings are TransformerLens's classic ones. A model of one stack has `blocks.{i}.`, a model of two has
`encoder.{i}.` and `decoder.{i}.`. Nothing in a forward pass knows of this file: while it looks, an attention module
holds a book whose attention is computed by hand, and the residual stream is read where it enters and leaves modules.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from minitransformer.errors import InputError
from minitransformer.model.stack import Block, Stack
from minitransformer.ops import BOOKS, Book

Seen = dict[str, Tensor]


class Point(NamedTuple):
    """A place where a number can be read: what enters ("in") or leaves ("out") a module, or a part of an attention.

    A block that is shared computes several times in one pass: it is the `turn`-th of its `turns` that is meant.
    """

    module: nn.Module
    reads: str
    turn: int = 0
    turns: int = 1
    stack: nn.Module | None = None  # where the pass begins


# name -> (module of the block, what is read there). Shapes [B T D] but for the two of the feed-forward, [B T F].
EVERY_BLOCK = {
    "hook_resid_pre": ("", "in"),
    "hook_attn_out": ("self_attn", "out"),
    "mlp.hook_pre": ("ffn.up", "out"),
    "mlp.hook_post": ("ffn.down", "in"),
    "hook_mlp_out": ("ffn", "out"),
}
PRE_NORM = {"hook_resid_mid": ("ffn_norm", "in"), "hook_resid_post": ("", "out")}
PRE_NORM_CROSS = {
    "hook_resid_mid": ("cross_attn_norm", "in"),
    "hook_resid_mid_cross": ("ffn_norm", "in"),
    "hook_resid_post": ("", "out"),
}
POST_NORM = {
    "hook_resid_mid": ("self_attn_norm", "in"),
    "hook_resid_post": ("ffn_norm", "in"),
    "hook_normalized_resid_post": ("", "out"),
}
POST_NORM_CROSS = {**POST_NORM, "hook_resid_mid_cross": ("cross_attn_norm", "in")}
# q, z are [B T H E], k, v [B S G E] (G: key heads, usually H), scores (masked: -∞) and pattern [B H T S].
ATTENTION = {
    "hook_q": "q",
    "hook_k": "k",
    "hook_v": "v",
    "hook_attn_scores": "scores",
    "hook_pattern": "pattern",
    "hook_z": "z",
}
EMBEDDING = {
    "hook_embed": ("tokens", "out"),
    "hook_token_type_embed": ("types", "out"),
    "hook_pos_embed": ("positions", "out"),
    "hook_full_embed": ("", "out"),
}


def points(model: nn.Module) -> dict[str, Point]:
    """Every point of this model, by name, in the order of the computation's layers."""
    embed = model.get_submodule("embed")
    found = {
        name: Point(embed.get_submodule(path), reads)
        for name, (path, reads) in EMBEDDING.items()
        if isinstance(getattr(embed, path, None) if path else embed, nn.Module)
    }
    for prefix, stack in stacks(model).items():
        order = stack.config.order
        for i, block in enumerate(stack.blocks):
            turn, turns = order[:i].count(order[i]), order.count(order[i])
            for name, point in _block_points(block).items():
                found[f"{prefix}.{i}.{name}"] = point._replace(turn=turn, turns=turns, stack=stack)
    return found


def stacks(model: nn.Module) -> dict[str, Stack]:
    """{"blocks": the only stack}, or {"encoder": …, "decoder": …}."""
    found = {name: getattr(model, name) for name in ("encoder", "decoder") if getattr(model, name) is not None}
    return found if len(found) == 2 else {"blocks": next(iter(found.values()))}


def _block_points(block: Block) -> dict[str, Point]:
    crosses = block.cross_attn is not None
    if block.add_norm.order == "pre":
        residual = PRE_NORM_CROSS if crosses else PRE_NORM
    else:
        residual = POST_NORM_CROSS if crosses else POST_NORM
    places = {**EVERY_BLOCK, **residual}
    if block.ffn.gate is not None:
        places |= {"mlp.hook_pre": ("ffn.gate", "out"), "mlp.hook_pre_linear": ("ffn.up", "out")}
    if crosses:
        places["hook_cross_attn_out"] = ("cross_attn", "out")
    found = {name: Point(block.get_submodule(path), reads) for name, (path, reads) in places.items()}
    found.update({f"attn.{name}": Point(block.self_attn, part) for name, part in ATTENTION.items()})
    if block.cross_attn is not None:
        found.update({f"cross_attn.{name}": Point(block.cross_attn, part) for name, part in ATTENTION.items()})
    return found


def select(model: nn.Module, names: Iterable[str]) -> dict[str, Point]:
    """The points that `names` mean; `*` stands for anything. A name that means nothing is an InputError."""
    every = points(model)
    chosen: dict[str, Point] = {}
    for name in names:
        matching = {each: point for each, point in every.items() if fnmatchcase(each, name)}
        if not matching:
            near = get_close_matches(name, every, n=3, cutoff=0.3) or list(every)[:3]
            raise InputError(f"capture: got the point {name!r}, which this model has not; try {', '.join(near)}")
        chosen.update(matching)
    return chosen


@contextmanager
def capture(model: nn.Module, names: str | Iterable[str]) -> Iterator[Seen]:
    """Within the `with`, each forward pass of `model` leaves the named tensors in the dict; then all is as before.

    The tensors are the model's own, with their gradients. No names, no cost.
    """
    seen: Seen = {}
    names = [names] if isinstance(names, str) else list(names)
    model = getattr(model, "transformer", model)  # what `load` returns holds the model
    with ExitStack() as undo:
        for name, point in select(model, names).items() if names else ():
            undo.callback(_watch(point, partial(seen.__setitem__, name)))
        yield seen


def _watch(point: Point, keep: Callable[[Tensor], None]) -> Callable[[], None]:
    """Hand each value of the point to `keep`. Returns what undoes it."""
    if point.turns > 1 and point.stack is not None:
        return _watch_turn(point, keep, point.stack)
    module, reads, *_ = point
    if reads == "in":
        return module.register_forward_pre_hook(lambda _, args: keep(args[0])).remove
    if reads == "out":
        return module.register_forward_hook(lambda _, args, output: keep(output)).remove
    book: Book = module.book  # type: ignore[assignment]
    watched = book.attention.keep if isinstance(book.attention, _WatchedAttention) else {}
    watching = _WatchedAttention({**watched, reads: [*watched.get(reads, ()), keep]})
    module.book = replace(book, attention=watching)  # type: ignore[assignment]
    return partial(setattr, module, "book", book)


def _watch_turn(point: Point, keep: Callable[[Tensor], None], stack: nn.Module) -> Callable[[], None]:
    """Keep a value on one of the turns that a shared block takes in each pass. Each pass counts from the start."""
    taken = 0

    def count(x: Tensor) -> None:
        nonlocal taken
        if taken == point.turn:
            keep(x)
        taken += 1

    def begin(*_: object) -> None:
        nonlocal taken
        taken = 0

    undo = ExitStack()
    undo.callback(stack.register_forward_pre_hook(begin).remove)
    undo.callback(_watch(point._replace(turns=1), count))
    return undo.close


@dataclass(frozen=True)
class _WatchedAttention:
    """`by_hand.attention`, line by line, handing out its parts."""

    keep: dict[str, list[Callable[[Tensor], None]]]

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        scale: float,
        dropout: float = 0.0,
    ) -> Tensor:
        by_hand = BOOKS["by_hand"]
        scores = by_hand.attention_scores(q, by_hand.for_each_query_head(k, q.shape[1]), scale=scale, bias=bias)
        pattern = by_hand.attention_weights(scores, mask)  # [B H T S]
        z = by_hand.drop(pattern, dropout) @ by_hand.for_each_query_head(v, q.shape[1])  # [B H T E]
        masked = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        for part, x in {"q": q, "k": k, "v": v, "scores": masked, "pattern": pattern, "z": z}.items():
            for keep in self.keep.get(part, ()):
                keep(x.transpose(1, 2) if part in "qkvz" else x)  # heads of a token side by side: [B T H E]
        return z
