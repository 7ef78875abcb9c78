"""Writing a result to a file: the name is checked first, and the file appears when all of it is written."""

import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from minitransformer.errors import InputError, NotFoundError, StorageError

FIGURES = (".svg", ".pdf", ".png")
SUFFIXES = (".html", *FIGURES, ".json", ".csv", ".txt")


def check_path(path: str | PathLike[str], suffixes: Sequence[str] = SUFFIXES) -> Path:
    """The path, where a file of that suffix can stand there; else an error that says why not."""
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"save: got {path.name!r:.120}, expected a name that ends in {', '.join(suffixes)}")
    if "\0" in str(path):
        raise InputError(f"save: got {str(path)!r:.120}, and no file's name holds a zero byte; take it out")
    if os.path.isdir(path):
        raise InputError(f"save: {path} is a folder, expected the name of a file")
    if not os.path.isdir(path.parent):
        raise NotFoundError(f"save: there is no folder {path.parent}; create it first")
    return path


def write(path: Path, content: bytes) -> None:
    """Write a file beside it, and rename that: whoever reads sees the old file or the new one."""
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".minitransformer-{os.getpid()}{target.suffix}")
    try:
        beside.write_bytes(content)
        os.replace(beside, target)
    except OSError as error:
        raise StorageError(f"save: cannot write {path}: {error.strerror}; check space, permissions, name") from error
    finally:
        beside.unlink(missing_ok=True)
