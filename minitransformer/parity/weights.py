"""How a weight of ours differs from transformers'."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

# What is said of a weight, and when. (ours, theirs) -> bool; the first that holds.
RELATIONS: tuple[tuple[str, Callable[[Tensor, Tensor], bool]], ...] = (
    ("holds NaN or infinity", lambda ours, theirs: not ours.isfinite().all()),
    ("is missing: all zeros", lambda ours, theirs: not ours.any()),
    ("is transposed", lambda ours, theirs: ours.ndim == 2 and torch.equal(ours, theirs.T)),
    ("has its rows off by one", lambda ours, theirs: _shifted(ours, theirs) or _shifted(theirs, ours)),
    ("has the wrong sign", lambda ours, theirs: torch.equal(ours, -theirs)),
)


def unlike(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """The names of transformers' weights that are not the same here."""
    return [name for name, x in theirs.items() if name not in ours or not torch.equal(ours[name], x)]


def put_right(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module these weights, where it has the parts for them."""
    for name, x in weights.items():
        path, _, leaf = name.rpartition(".")
        try:
            setattr(module.get_submodule(path), leaf, nn.Parameter(x))
        except AttributeError:
            continue


def describe(names: Iterable[str], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """One line for each of these weights, all of one part: how it differs."""
    return list(dict.fromkeys(_describe(name, ours, theirs) for name in names))


def _describe(name: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    if name not in ours:
        return f"{name} is missing"
    twin = next((other for other, x in theirs.items() if other != name and torch.equal(ours[name], x)), None)
    if twin is not None and twin in ours and torch.equal(ours[twin], theirs[name]):
        return f"{' and '.join(sorted((name, twin)))} are swapped"
    for says, holds in RELATIONS:
        if holds(ours[name], theirs[name]):
            return f"{name} {says}"
    if twin is not None:
        return f"{name} is transformers' {twin}"
    apart = (ours[name] - theirs[name]).abs()
    return (
        f"{name} has {int((apart > 0).sum())} of {apart.numel()} numbers unlike transformers', up to {apart.max():.1e}"
    )


def _shifted(x: Tensor, y: Tensor) -> bool:
    return len(x) > 1 and torch.equal(x[1:], y[:-1])
