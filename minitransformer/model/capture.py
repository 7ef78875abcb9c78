"""The one seam for looking inside, and for changing what is there: name the points, run the model.

    with capture(model, ["blocks.0.attn.hook_pattern", "*hook_resid_post"]) as seen:
        model(**batch)
    seen["blocks.0.attn.hook_pattern"]    # [B H T S]

    with hooks(model, [("blocks.0.attn.hook_z", lambda z, hook: z * 0)]):
        model(**batch)

What can be named is in `points.py`. Nothing in a forward pass knows of this file: while someone looks, the inputs and
outputs of modules go through hooks, and where a formula has to be opened, the module holds a book that computes it by
hand: see `opened.py`.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.errors import InputError
from minitransformer.model.opened import OPENED, OpenProjection, Visit
from minitransformer.model.points import Point, matching, names_of, points

__all__ = ["Hook", "Point", "Seen", "capture", "hooks", "points"]

Seen = dict[str, Tensor]
Hook = tuple[str, Callable[..., Tensor | None]]  # a point's name (or with stars, several), and fn(tensor, hook=point)


@contextmanager
def capture(model: nn.Module, names: str | Iterable[str]) -> Iterator[Seen]:
    """Within the `with`, each forward pass of `model` leaves the named tensors in the dict; then all is as before.

    The tensors are the model's own, with their gradients. No names, no cost.
    """
    seen: Seen = {}

    def keep(x: Tensor, hook: Point) -> None:
        seen[hook.name] = x

    names = names_of(names)
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


EAGER: list[Any] = []  # what undoes it, for each context that is open


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
    EAGER.append(undo)
    try:
        yield
    finally:
        first = EAGER.pop()
        if not EAGER:  # the last to leave restores what the first found, whatever their order
            first.__exit__(None, None, None)


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


def _watch_result(point: Point, visit: Visit) -> Callable[[], object]:
    """Take the module apart, once for all who look."""
    hooked = point.module._forward_hooks
    key = next((key for key, hook in hooked.items() if isinstance(hook, OpenProjection)), None)
    if key is None:
        key = point.module.register_forward_hook(OpenProjection([], point.d_head or 1)).id
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
