"""Whether an answer is the same as another: numbers to a tolerance, everything else exactly."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def difference(got: Any, expected: Any, tolerance: float) -> str | None:
    """What differs, as the end of a sentence that begins with "your answer"; None if nothing does.

    It says what `got` is, and of several numbers how far off, never what a number or word should be: find it.
    """
    if isinstance(expected, Mapping):
        return _of_mappings(got, expected, tolerance)
    if isinstance(got, np.ndarray):
        got = got.tolist()
    if isinstance(expected, set):
        return _of_sets(got, expected)
    if isinstance(expected, tuple | list):
        return _of_sequences(got, expected, tolerance)
    if isinstance(expected, str):
        if not isinstance(got, str):
            return f"is {_kind(got)}, expected a text"
        return None if got == expected else f"is {got!r:.60}, which is not it"
    if isinstance(expected, Tensor | int | float):
        return _of_numbers(got, torch.as_tensor(expected).detach(), tolerance)
    raise TypeError(f"no way to compare with {_kind(expected)}")


def _of_mappings(got: Any, expected: Mapping[Any, Any], tolerance: float) -> str | None:
    if not isinstance(got, Mapping):
        return f"is {_kind(got)}, expected a dict"
    missing = [key for key in expected if key not in got]
    if missing:
        return f"has no {missing[0]!r:.80}" + (f", nor {len(missing) - 1} more" if len(missing) > 1 else "")
    extra = [key for key in got if key not in expected]
    if extra:
        return f"has {extra[0]!r:.80}, which does not belong there"
    for key, value in expected.items():
        found = difference(got[key], value, tolerance)
        if found:
            return f"at {key!r:.80} {found}"
    return None


def _of_sets(got: Any, expected: set[Any]) -> str | None:
    """Values whose order does not count, in whatever holds several."""
    found = got.tolist() if isinstance(got, Tensor) else got
    if not isinstance(found, set | tuple | list | range):
        return f"is {_kind(got)}, expected several values in a list"
    return None if _hashable(found) == expected else "is not it: a value is missing, or one does not belong there"


def _hashable(values: Any) -> set[Any] | None:
    try:
        return set(values)
    except TypeError:
        return None


def _of_sequences(got: Any, expected: tuple[Any, ...] | list[Any], tolerance: float) -> str | None:
    if isinstance(got, Tensor) and got.ndim:
        got = got.tolist() if got.ndim == 1 else list(got)
    if not isinstance(got, tuple | list | range):
        return f"is {_kind(got)}, expected several values in a tuple or list"
    if len(got) != len(expected):
        return f"has not as many values as it should: {len(got)}"
    for place, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        found = difference(mine, theirs, tolerance)
        if found:
            return f"at place {place} {found}"
    return None


def _of_numbers(got: Any, expected: Tensor, tolerance: float) -> str | None:
    if isinstance(got, list | tuple) and got and all(isinstance(row, Tensor) for row in got):
        return f"is {_kind(got)} of tensors; torch.stack makes one of them"
    try:
        x = torch.as_tensor(got).detach()
    except (TypeError, ValueError, RuntimeError):
        return f"is {_kind(got)}, expected numbers of shape {list(expected.shape)}"
    if x.shape != expected.shape:
        return f"has the shape {list(x.shape)}, expected {list(expected.shape)}"
    if (x.dtype == torch.bool) != (expected.dtype == torch.bool):
        kinds = ["numbers", "True and False"]
        how = " (x != 0 makes them of numbers)" if expected.dtype == torch.bool else ""
        return f"has {kinds[x.dtype == torch.bool]} in it, expected {kinds[expected.dtype == torch.bool]}{how}"
    if x.is_complex():
        return "has complex numbers in it"
    whole = not expected.is_floating_point()
    x, wanted = x.cpu().double(), expected.cpu().double()
    close = torch.isclose(x, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    if close.all():
        return None
    if not x.ndim:
        which = "which is not it" if whole or x.isnan() else "too large" if x > wanted else "too small"
        return f"is {float(x):.6g}, {which}"
    worst = (x - wanted).abs().nan_to_num(torch.inf, torch.inf).masked_fill(close, -1)
    place = [int(index) for index in torch.unravel_index(worst.argmax(), worst.shape)]
    there, off = x[tuple(place)], float(worst[tuple(place)])
    if expected.dtype == torch.bool:
        return f"is {bool(there)} at {place}, which is not it"
    return f"is {float(there):.4g} at {place}" + (f", off by {off:.2g}" if off < torch.inf else ", which is not it")


def _kind(value: Any) -> str:
    """What it is, with an article."""
    if value is None or value is ...:
        return f"{value!r}, nothing yet"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
