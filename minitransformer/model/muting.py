"""Switching heads off: for a while, or by a factor for each."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from minitransformer.errors import InputError
from minitransformer.model.capture import Hook, hooks
from minitransformer.model.points import Heads, Point, heads_of

Muting = Literal["zero", "mean", "uniform"]


@contextmanager
def muted(
    model: nn.Module, heads: Collection[tuple[int, int]], mode: Muting = "zero", *, attention: str | None = None
) -> Iterator[None]:
    """Within the `with`, these heads, (layer, head) each, give something else, by `mode`.

    "zero": they add nothing but W_O's bias, which is not theirs; "mean": each gives all tokens the mean of what it
    would give them, over all tokens of the batch (padding counts: give texts of one length); "uniform": each looks
    everywhere it may, equally. `attention`: "encoder", "decoder" or "cross", where the model has several.
    """
    if mode not in tuple(MUTINGS):
        raise InputError(f"mode: got {mode!r}, expected one of {', '.join(MUTINGS)}")
    found, part = heads_of(model, attention), "attn_scores" if mode == "uniform" else "z"
    of_layer: dict[str, list[int]] = {}
    for layer, head in _pairs(heads):
        of_layer.setdefault(found.point(layer, part), []).append(found.head(head))
    with hooks(model, [(name, partial(_mute, MUTINGS[mode], some)) for name, some in of_layer.items()]):
        yield


def _pairs(heads: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    if not isinstance(heads, Collection):
        raise InputError(f"heads: got {heads!r:.60}, expected pairs: [(layer, head), …]")
    wrong = [each for each in heads if not isinstance(each, tuple | list) or len(each) != 2]
    if wrong:
        raise InputError(f"heads: got {wrong[0]}, expected pairs: [(layer, head), …]")
    return [(layer, head) for layer, head in heads]


def _mute(mute: Callable[[Tensor], Tensor], heads: Sequence[int], x: Tensor, hook: Point) -> Tensor:
    """What a point is when some heads are muted: z [B T H E], or scores [B H T S]."""
    dim = 2 if hook.name.endswith("hook_z") else 1
    at = torch.tensor(heads, device=x.device)
    return x.index_copy(dim, at, mute(x.index_select(dim, at)))


MUTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": torch.zeros_like,
    "mean": lambda z: z.mean((0, 1), keepdim=True).expand_as(z),
    "uniform": lambda scores: torch.where(scores.isneginf(), scores, 0),
}


def head_mask_hooks(model: nn.Module, masks: Mapping[str, Tensor | None]) -> list[Hook]:
    """What multiplies each head's z by its number in a mask, [H] or [layers H]; the masks by the kind of attention."""
    found: list[Hook] = []
    for kind, mask in masks.items():
        if mask is not None:
            heads = heads_of(model, kind)
            rows = _rows(f"head_mask of {kind} attention", mask, heads)
            found += [(heads.point(layer, "z"), partial(_scale, row)) for layer, row in enumerate(rows)]
    return found


def _rows(name: str, mask: Tensor, heads: Heads) -> Tensor:
    """The mask's row for each layer: [layers H]."""
    expected = [heads.layers, heads.stack.config.heads]
    if not isinstance(mask, Tensor) or list(mask.shape) not in (expected, expected[1:]):
        got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise InputError(f"{name}: got {got}, expected a tensor of shape {expected} or {expected[1:]}: 1 keeps a head")
    return mask.expand(expected)


def _scale(factors: Tensor, z: Tensor, hook: Point) -> Tensor:
    """z [B T H E] · factors [H]. By a factor of 1, z stays as it is to the last bit."""
    return z * factors.to(z)[:, None]
