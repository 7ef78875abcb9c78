"""Reading a file that may be missing, damaged or hostile: JSON, and what every reader checks first."""

import json
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from minitransformer.errors import ConfigError, NotFoundError

MAX_JSON_BYTES = 32 * 2**20  # the largest index files on the hub have some 10 MB
LFS_HINT = "a Git-LFS pointer, not the file itself; run `git lfs pull` in its repository, or download the file again"


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file; ConfigError says where it is wrong, NotFoundError what stands there instead."""
    path = Path(path)
    data = read_json_bytes(path)
    if is_lfs_pointer(data):
        raise ConfigError(f"{path} is {LFS_HINT}")
    try:
        return parse_object(data)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; repair the file or download it again") from error


def read_json_bytes(path: Path) -> bytes:
    """The bytes of a file, or so many of them that `parse_object` refuses them as too many."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size  # to ask for more would take that much memory first
        return file.read(min(size, MAX_JSON_BYTES + 1))


def parse_object(data: bytes, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Bytes parsed as one JSON object; a ValueError gives the reason, also where the standard leaves a case open."""
    if len(data) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes of JSON")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
        if re.search(rb"\\u[dD][89a-fA-F]", data):  # half of a surrogate pair is no character: it can never be printed
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except UnicodeError as error:
        raise ValueError(f"not UTF-8 text: {error}") from error
    except RecursionError as error:
        raise ValueError("not JSON: nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object is expected, got {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members; a name that comes twice is an error, where json would keep the last one silently."""
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"{quote(name)} is given twice")
        members[name] = value
    return members


def _finite(text: str) -> float:
    """A number as JSON allows it: Python's json also takes NaN and Infinity, and reads 1e999 as Infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{quote(text)} is not a finite number")
    return value


def quote(value: object) -> str:
    """A name or value from a file, short enough for one line of an error message."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"


def is_lfs_pointer(data: bytes) -> bool:
    """Whether these are the few lines that Git puts in place of a large file it has not fetched."""
    return len(data) < 1024 and data.startswith(b"version https://git-lfs")


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. A folder, a pipe or a device is refused: reading one could wait for ever."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise NotFoundError(f"{path}: a file is expected, and this is none")
        return path.open("rb")
    except NotFoundError:
        raise
    except FileNotFoundError as error:
        raise NotFoundError(
            f"no {path.name} in {path.parent}, which holds {listed(list_folder(path.parent))}"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise NotFoundError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def list_folder(folder: Path) -> list[str]:
    """The names in a folder, in order."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise NotFoundError(f"{folder}: {error.strerror}; expected a folder") from error


def listed(names: Iterable[str]) -> str:
    """Names for an error message: the first ten, and how many more."""
    names = list(names)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    shown = [name if name.isprintable() and len(name) <= 120 else quote(name) for name in names[:10]]
    return ", ".join(shown) + more if names else "nothing"


def write_json(value: Mapping[str, Any], path: str | Path) -> None:
    """Write `value` as an indented JSON object."""
    Path(path).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
