"""The one seam for looking inside, and for changing what is there: name the points, run the model.

    with capture(model, ["blocks.0.attn.hook_pattern", "*hook_resid_post"]) as seen:
        model(**batch)
    seen["blocks.0.attn.hook_pattern"]    # [B H T S]

    with hooks(model, [("blocks.0.attn.hook_z", lambda z, hook: z * 0)]):
        model(**batch)

What can be named is in `points.py`. Nothing in a forward pass knows of this file: while someone looks, the inputs and
outputs of modules go through hooks, and where a formula has to be opened, the module holds a book that computes it by
hand.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.errors import InputError
from minitransformer.model.points import Point, matching, points
from minitransformer.modules import LayerNorm, MultiHeadAttention, RMSNorm
from minitransformer.modules.adapters import AdapterLinear, LoRALinear, effective_weight
from minitransformer.ops import Book

__all__ = ["Hook", "Point", "Seen", "capture", "hooks", "points"]

Seen = dict[str, Tensor]
Hook = tuple[str, Callable[..., Tensor | None]]  # a point's name (or with stars, several), and fn(tensor, hook=point)
Visit = Callable[[Tensor], Tensor]  # sees a point's tensor, gives it back or another in its place


@contextmanager
def capture(model: nn.Module, names: str | Iterable[str]) -> Iterator[Seen]:
    """Within the `with`, each forward pass of `model` leaves the named tensors in the dict; then all is as before.

    The tensors are the model's own, with their gradients. No names, no cost.
    """
    seen: Seen = {}

    def keep(x: Tensor, hook: Point) -> None:
        seen[hook.name] = x

    names = [names] if isinstance(names, str) else list(names)
    with hooks(model, [(name, keep) for name in dict.fromkeys(names)]):
        yield seen


@contextmanager
def hooks(model: nn.Module, fwd_hooks: Sequence[Hook] = (), bwd_hooks: Sequence[Hook] = ()) -> Iterator[None]:
    """Within the `with`, a function sees each named tensor, and its answer takes the place; None changes nothing.

    A function is called as fn(tensor, hook=point); `point.name` says where. Those of `bwd_hooks` get the gradient of
    the tensor, in the backward pass. Several at one point act in their order. Afterwards, also after an exception, the
    model is as before.
    """
    model = getattr(model, "transformer", model)  # what `load` returns holds the model
    if not hasattr(model, "embed"):
        raise InputError(f"got a {type(model).__name__}, expected a loaded model or what mt.build gives: a Transformer")
    every: dict[str, Point] = {}
    if fwd_hooks or bwd_hooks:
        refuse_compiled(model)
        every = points(model)
    chosen = [
        (point, fn, visit)
        for name, fn, visit in _asked(fwd_hooks, bwd_hooks)
        for point in matching(model, every, name).values()
    ]
    with ExitStack() as undo:
        if chosen:
            undo.enter_context(_eagerly())
        for point, fn, visit in chosen:
            undo.callback(_watch(point, partial(visit, point, fn)))
        yield


def _asked(
    fwd_hooks: Sequence[Hook], bwd_hooks: Sequence[Hook]
) -> Iterator[tuple[str, Callable[..., Any], Callable[..., Tensor]]]:
    """The names and functions, each with what it sees: a tensor or its gradient. An InputError for what is no hook."""
    for kind, given, visit in (("fwd_hooks", fwd_hooks, _forward), ("bwd_hooks", bwd_hooks, _backward)):
        pairs = list(given) if isinstance(given, list | tuple) else [given]
        for pair in pairs:
            if (
                not isinstance(pair, list | tuple)
                or len(pair) != 2
                or not isinstance(pair[0], str)
                or not callable(pair[1])
            ):
                raise InputError(f"{kind}: got {pair!r:.80}, expected a list of pairs: [(name, function), …]")
            yield pair[0], pair[1], visit


def refuse_compiled(model: nn.Module) -> None:
    """Raise an InputError for a model whose forward pass is compiled: what is changed here would not reach it."""
    parts = list(model.modules())
    if any(getattr(part, "_compiled_call_impl", None) is not None or hasattr(part, "_orig_mod") for part in parts):
        raise InputError(COMPILED)


COMPILED = (
    "the model is compiled: its kernels have no places to look into; look into the model that was given to "
    "torch.compile (`compiled._orig_mod`), or load it again"
)


@contextmanager
def _eagerly() -> Iterator[None]:
    """Within the `with`, what torch.compile has put around a model computes line by line, where hooks are heard."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled
        yield
        return
    try:
        undo = torch.compiler.set_stance("force_eager")
    except RuntimeError:  # a compiled function is running, and calls this
        raise InputError(COMPILED) from None
    with undo:
        yield


def _forward(point: Point, fn: Callable[..., Any], x: Tensor) -> Tensor:
    """What the function makes of a tensor."""
    answer = fn(x, hook=point)
    return x if answer is None else _checked(point, answer, x)


def _backward(point: Point, fn: Callable[..., Any], x: Tensor) -> Tensor:
    """Have the function see the tensor's gradient, when that is known."""
    if not torch.is_grad_enabled():
        raise InputError(f"{point.name}: bwd_hooks see gradients, and none are recorded here; leave torch.no_grad()")
    if not x.requires_grad:
        return x

    def of_gradient(gradient: Tensor) -> Tensor | None:
        answer = fn(gradient, hook=point)
        return None if answer is None else _checked(point, answer, gradient)

    x = x.view_as(x)  # the gradient of this place alone, whatever else reads the tensor
    x.register_hook(of_gradient)
    return x


def _checked(point: Point, answer: Any, x: Tensor) -> Tensor:
    if isinstance(answer, Tensor) and (answer.shape, answer.dtype, answer.device) == (x.shape, x.dtype, x.device):
        return answer
    got = _described(answer) if isinstance(answer, Tensor) else type(answer).__name__
    raise InputError(f"{point.name}: the hook returned {got}, expected {_described(x)}, or None to change nothing")


def _described(x: Tensor) -> str:
    return f"{list(x.shape)} in {str(x.dtype).removeprefix('torch.')} on {x.device}"


# ------------------------------------------------------------------------------------------------------------ watching


def _watch(point: Point, visit: Visit) -> Callable[[], object]:
    """Show each value of the point to `visit`, and let its answer take the place. Returns what undoes it."""
    if point.side is not None:
        return _watch_side(point, visit)
    if point.turns > 1:
        return _watch_turn(point, visit)
    if point.reads == "result":
        return _watch_result(point, visit)
    if point.reads in ("in", "out"):
        return _watch_module(point, visit)
    return _watch_formula(point, visit)


class _Encoding:
    """A model's `encode`, which says while it runs: by that, a table that two stacks share knows whose turn it is."""

    def __init__(self, encode: Callable[..., Tensor]) -> None:
        self.encode, self.runs, self.watchers = encode, False, 0

    def __call__(self, *args: Any, **options: Any) -> Tensor:
        self.runs = True
        try:
            return self.encode(*args, **options)
        finally:
            self.runs = False


def _watch_side(point: Point, visit: Visit) -> Callable[[], object]:
    """Watch a module that both stacks use, when the one of that side does."""
    model, side = point.within, point.side
    assert model is not None
    encoding = vars(model).setdefault("encode", _Encoding(model.encode))  # type: ignore[arg-type]
    encoding.watchers += 1

    def look(x: Tensor) -> Tensor:
        return visit(x) if encoding.runs == (side == "encoder") else x

    unwatch = _watch(point._replace(side=None), look)

    def close() -> None:
        unwatch()
        encoding.watchers -= 1
        if not encoding.watchers:
            del vars(model)["encode"]

    return close


def _watch_turn(point: Point, visit: Visit) -> Callable[[], object]:
    """Watch one of the turns that a shared module takes in each pass. Each pass counts from the start."""
    taken = 0

    def count(x: Tensor) -> Tensor:
        nonlocal taken
        taken += 1
        return visit(x) if taken == point.turn + 1 else x

    def begin(*_: object) -> None:
        nonlocal taken
        taken = 0

    undo = ExitStack()
    if point.within is not None:
        undo.callback(point.within.register_forward_pre_hook(begin).remove)
    undo.callback(_watch(point._replace(turns=1), count))
    return undo.close


def _watch_module(point: Point, visit: Visit) -> Callable[[], object]:
    """Watch what enters or leaves a module."""
    module = point.module
    if point.d_head is not None:
        visit = partial(_by_heads, visit, point.d_head)
    if point.reads == "in":
        return module.register_forward_pre_hook(lambda _, args: (visit(args[0]), *args[1:])).remove

    def leave(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        mine = point.norm is None or args[1] is point.norm
        return visit(output) if mine else output

    return module.register_forward_hook(leave).remove


def _by_heads(visit: Visit, d_head: int, x: Tensor) -> Tensor:
    """Show vectors with their heads apart, [B T H E], and put them side by side again. [B T H·E] -> [B T H·E]."""
    return visit(x.unflatten(-1, (-1, d_head))).flatten(-2)


@dataclass(frozen=True, eq=False)
class _OpenProjection:
    """An output projection, taken apart by heads for all who look: z W_O of each, which add up to it."""

    visits: list[Visit]
    d_head: int

    def __call__(self, o: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not isinstance(o, nn.Linear) or isinstance(o, AdapterLinear):
            raise InputError(
                "hook_result: what stands behind these heads is no matrix, so that their results do not add up; "
                "see hook_z, before it"
            )
        if isinstance(o, LoRALinear) and o.training and o.dropout:
            raise InputError("hook_result: LoRA's dropout is on, and is no part of a head's result; call model.eval()")
        z, weight = (x.unflatten(-1, (-1, self.d_head)) for x in (args[0], effective_weight(o)))  # [B T H E], [D H E]
        result = torch.einsum("bthe,dhe->bthd", z, weight)  # [B T H D]
        before = result.detach().sum(-2)  # [B T D]
        for visit in tuple(self.visits):
            result = visit(result)
        # The output is changed by what the results are changed by: where they are not, by nothing, to the last bit.
        # Its gradient goes through them.
        bias = 0 if o.bias is None else o.bias - o.bias.detach()
        return output.detach() + (result.sum(-2) - before) + bias


def _watch_result(point: Point, visit: Visit) -> Callable[[], object]:
    """Take the module apart, once for all who look."""
    hooked = point.module._forward_hooks
    key = next((key for key, hook in hooked.items() if isinstance(hook, _OpenProjection)), None)
    if key is None:
        key = point.module.register_forward_hook(_OpenProjection([], point.d_head or 1)).id
    visits = hooked[key].visits  # type: ignore[attr-defined]
    visits.append(visit)

    def close() -> None:
        visits.remove(visit)
        if not visits:
            del hooked[key]

    return close


def _watch_formula(point: Point, visit: Visit) -> Callable[[], object]:
    """Have the module compute with a book whose formula hands out its parts, to all who look."""
    module = point.module
    name, opened = OPENED[type(module)]
    formula = getattr(module.book, name)
    if not isinstance(formula, opened):
        formula = opened({}, module.book)
        module.book = replace(module.book, **{name: formula})  # type: ignore[type-var]
    visits = formula.visits.setdefault(point.reads, [])
    visits.append(visit)

    def close() -> None:
        visits.remove(visit)
        if not any(formula.visits.values()) and getattr(module.book, name) is formula:
            module.book = formula.book

    return close


# ----------------------------------------------------------- formulas of `by_hand.py`, line by line, handing out parts


Visits = dict[str, list[Visit]]


def _shown(visits: Visits, part: str, x: Tensor) -> Tensor:
    """What the visitors of that part make of it."""
    for visit in tuple(visits.get(part, ())):
        x = visit(x)
    return x


@dataclass(frozen=True)
class _OpenAttention:
    """`by_hand.attention`, on the kernels of the module's own book."""

    visits: Visits
    book: Book

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
        q, k = self.of_tokens("rot_q", q), self.of_tokens("rot_k", k)  # turned already, where positions are rotary
        k, v = (self.book.for_each_query_head(x, q.shape[1]) for x in (k, v))  # [B H S E]
        scores = self.book.attention_scores(q, k, scale=scale, bias=bias)  # [B H T S]
        masked = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        pattern = self.book.softmax(_shown(self.visits, "scores", masked))  # [B H T S]
        return self.book.drop(_shown(self.visits, "pattern", pattern), dropout) @ v  # [B H T E]

    def of_tokens(self, part: str, x: Tensor) -> Tensor:
        """Shown with the heads of a token side by side: [B H T E] as [B T H E]."""
        if not self.visits.get(part):
            return x
        return _shown(self.visits, part, x.transpose(1, 2)).transpose(1, 2)


@dataclass(frozen=True)
class _OpenLayerNorm:
    """`by_hand.layer_norm`."""

    visits: Visits
    book: Book

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = _shown(self.visits, "scale", (centred.square().mean(-1, keepdim=True) + eps).sqrt())  # [... 1]
        return _shown(self.visits, "normalized", centred / scale) * weight + bias


@dataclass(frozen=True)
class _OpenRMSNorm:
    """`by_hand.rms_norm`."""

    visits: Visits
    book: Book

    def __call__(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = _shown(self.visits, "scale", (wide.square().mean(-1, keepdim=True) + eps).sqrt())  # [... 1]
        return _shown(self.visits, "normalized", (wide / scale).to(x.dtype)) * weight


# A module's kind -> the formula of its book that is opened, and what takes its place.
OPENED: dict[type[nn.Module], tuple[str, Any]] = {
    MultiHeadAttention: ("attention", _OpenAttention),
    LayerNorm: ("layer_norm", _OpenLayerNorm),
    RMSNorm: ("rms_norm", _OpenRMSNorm),
}
