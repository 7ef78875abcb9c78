"""The text of a file that people made: UTF-8 or an error that names the line, and never too much of it at once."""

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from minitransformer.errors import DataError
from minitransformer.storage.files import open_regular

MAX_LINE = 16 * 2**20  # bytes; more is no line of a text file, but a file of another kind
MAX_WHOLE = 2**30  # bytes of a file that has to be read at once

HALF_OF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # how JSON may write half of a surrogate pair, which is no character


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each line of a file with its number from 1; the end of the line is part of it."""
    with open_regular(path) as file:
        for number in count(1):
            data = file.readline(MAX_LINE + 1)
            if not data:
                return
            if len(data) > MAX_LINE:
                raise DataError(f"{path}, line {number}: longer than {MAX_LINE} bytes; is this a text file?")
            text = _decode(data, path, number)
            yield number, text.removeprefix("\ufeff") if number == 1 else text


def plain_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each line of a file with its number from 1, without the end of the line."""
    return ((number, line.rstrip("\r\n")) for number, line in lines(path))


def whole(path: Path) -> str:
    """The text of a file that is one value, as JSON is."""
    with open_regular(path) as file:
        data = file.read(MAX_WHOLE + 1)
    if len(data) > MAX_WHOLE:
        raise DataError(f"{path}: larger than {MAX_WHOLE} bytes; write a .jsonl, which has one row on each line")
    return _decode(data, path, 1).removeprefix("\ufeff")


def _decode(data: bytes, path: Path, first_line: int) -> str:
    """The text of these bytes, which begin with line `first_line` of the file."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        byte = f"0x{data[error.start]:02x}"
        raise DataError(f"{path}, line {line}: not UTF-8 (byte {byte}); save the file as UTF-8") from error
    if "\0" in text:
        line = first_line + text.count("\n", 0, text.index("\0"))
        raise DataError(f"{path}, line {line}: it has a zero byte; is this a text file?")
    return text


def json_value(text: str, where: str) -> Any:
    """The value of a JSON text."""
    try:
        value = json.loads(text)
        if HALF_OF_A_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text.strip() else f"column {error.colno}"
        raise DataError(f"{where}: not JSON: {error.msg} at {place}") from error
    except UnicodeError as error:
        raise DataError(f"{where}: it has half of a surrogate pair (\\ud...), which is no character") from error
    except RecursionError as error:
        raise DataError(f"{where}: JSON that is nested too deeply") from error
    except ValueError as error:  # a whole number of thousands of digits
        raise DataError(f"{where}: not JSON: {error}") from error
    return value
