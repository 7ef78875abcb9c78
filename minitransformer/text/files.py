"""Reading a tokenizer's files, which come from strangers: each is checked before it is believed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minitransformer.errors import MiniTransformerError, TokenizerError

MAX_BYTES = 300 * 10**6  # some ten times the largest tokenizer file in use


def read_bytes(path: Path) -> bytes:
    """What is in a file, if it is a plain one of reasonable size."""
    try:
        if not path.exists():
            raise TokenizerError(f"{path}: no such file; look at its name")
        if not path.is_file():
            raise TokenizerError(f"{path}: got a folder or a special file, expected a plain file; download it again")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise TokenizerError(f"{path}: got {size} bytes, expected at most {MAX_BYTES}; this is no tokenizer file")
        data = path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror}); look at its permissions") from error
    if data.startswith(b"version https://git-lfs"):
        raise TokenizerError(f"{path}: got a Git-LFS pointer instead of the file; run `git lfs pull` in its folder")
    return data


def read_text(path: Path) -> str:
    """The text of a UTF-8 file."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file. A line ends at a line feed and nowhere else: U+0085 and U+2028 occur inside tokens."""
    text = read_text(path)
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, in which no name stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) < len(pairs):
            twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise TokenizerError(f"{path}: the name {twice!r} stands twice in one object; remove one of the two")
        return names

    try:
        value = json.loads(read_text(path), object_pairs_hook=unique)
    except TokenizerError:
        raise
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise TokenizerError(f"{path}: not JSON at {where} ({error.msg}); download the file again") from None
    except (RecursionError, ValueError) as error:
        raise TokenizerError(f"{path}: JSON beyond reason ({error}); download the file again") from None
    if not isinstance(value, dict):
        raise TokenizerError(
            f"{path}: got a JSON {type(value).__name__}, expected an object {{...}}; download the file again"
        )
    return value


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Make a TokenizerError of what the tokenizers library throws: bare exceptions, and worse, panics."""
    try:
        yield
    except MiniTransformerError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(f"{what} ({error}); download the tokenizer again") from error
