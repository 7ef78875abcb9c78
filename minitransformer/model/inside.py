"""What people do with the seam: run a model, and keep what was asked for or change it on the way."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.model.activations import ActivationCache
from minitransformer.model.capture import Hook, capture, hooks
from minitransformer.model.memory import check_memory
from minitransformer.model.points import Point, points, select
from minitransformer.model.transformer import Output, Transformer

Names = str | Iterable[str] | Callable[[str], bool]


def run_with_cache(
    model: Transformer, batch: Mapping[str, Tensor], *, names: Names | None = None, grad: bool = False
) -> tuple[Output, ActivationCache]:
    """A forward pass, and what its points were: those that `names` mean (with stars, or a function of a name).

    Without names all but the heads' results, which are H times as large as the stream. Gradients are recorded with
    `grad` only. An InputError where the memory that is free would not hold it.
    """
    if grad and torch.is_inference_mode_enabled():
        raise InputError("grad: gradients cannot be recorded in torch.inference_mode(); call it outside")
    chosen = chosen_points(model, names)
    check_memory(model, chosen.values(), batch)
    with nullcontext() if grad else torch.no_grad(), capture(model, list(chosen)) as seen:
        output = model(**batch)
    return output, ActivationCache(model, seen)


def run_with_hooks(
    model: Transformer, batch: Mapping[str, Tensor], fwd_hooks: Sequence[Hook] = (), bwd_hooks: Sequence[Hook] = ()
) -> Output:
    """A forward pass on whose way functions see, and may change, points: see `hooks`.

    `bwd_hooks` act in the backward pass of this output: call `.backward()` on a number made of it.
    """
    with hooks(model, fwd_hooks, bwd_hooks):
        return model(**batch)


def chosen_points(model: Transformer, names: Names | None) -> dict[str, Point]:
    """The points that are meant; None means all but the heads' results."""
    every = points(model)
    if names is None:
        return {name: point for name, point in every.items() if point.reads != "result"}
    if callable(names):
        return {name: point for name, point in every.items() if names(name)}
    return select(model, names)
