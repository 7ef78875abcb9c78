"""Everything that can go wrong, one exception type per kind of failure.

A message says what was got, what was expected and what to try.
"""

from collections.abc import Sequence


class MiniTransformerError(Exception):
    """The root of all errors that this package raises on purpose."""


class ConfigError(MiniTransformerError, ValueError):
    """A config that cannot be read, contradicts itself, or asks for what is not implemented."""


class NotFoundError(MiniTransformerError, FileNotFoundError):
    """A model name, folder, file or package that is not there."""


class CorruptFileError(MiniTransformerError):
    """A file that is damaged, or that breaks the rules of its format."""


class UnsafeFileError(MiniTransformerError):
    """A file that could run code or lead outside its folder; it was not opened."""


class MismatchError(MiniTransformerError):
    """Tensors in the file that do not fit the model: missing, unexpected or wrongly shaped."""


class HubError(MiniTransformerError):
    """The hub could not be reached, or refused."""


class TokenizerError(MiniTransformerError, ValueError):
    """A tokenizer that cannot be built, or a text that cannot be encoded."""


class InputError(MiniTransformerError, ValueError):
    """An input the model cannot take: ids out of range, too long, wrong shape."""


def refuse(why: str, **given: object) -> None:
    """Raise an InputError for inputs that would have no effect, by their names."""
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name}: {why}; leave {name} out")


class DataError(MiniTransformerError, ValueError):
    """Rows that cannot be used: a missing column, an empty file, an unknown label."""


class StorageError(MiniTransformerError):
    """A disk that is full, or a place that cannot be written to."""


class NotFiniteError(MiniTransformerError, ArithmeticError):
    """A loss or a gradient that is no finite number; training stopped before it reached the weights."""

    rows: Sequence[int] = ()  # the places of the rows of that step


class StoppedError(MiniTransformerError):
    """A run that was asked to stop: it is saved and can go on."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class DependencyError(MiniTransformerError, ImportError):
    """An optional package that is not installed."""
