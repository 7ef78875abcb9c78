"""What every metric asks first: an answer for each row, and the library that judges them."""

import importlib
from collections.abc import Iterable, Sized
from typing import Any

from minitransformer.errors import DataError, DependencyError


def check_rows(predicted: Sized, right: Sized) -> None:
    """A DataError unless there is one answer for each row, and a row at all."""
    if len(predicted) != len(right):
        raise DataError(f"predicted: got {len(predicted)} answers, expected {len(right)}, one for each row")
    if not len(right):
        raise DataError("got no rows to judge by, expected 1 or more")


def check_labels(found: Iterable[str], labels: Iterable[str]) -> None:
    """A DataError that names what was found and is no label."""
    unknown = sorted(set(found) - set(labels))
    if unknown:
        raise DataError(f"labels: got {unknown[0]!r}, expected one of {', '.join(list(labels)[:20])}")


def library(module: str, package: str) -> Any:
    """A module of a package that is not always installed; a DependencyError where it is not."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DependencyError(f"{package} is not installed; pip install 'minitransformer[metrics]'") from None
