"""Records from csv, tsv, jsonl and json files: what each row of the file says, column by column."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from minitransformer.errors import DataError
from minitransformer.finetune.rows.lines import MAX_LINE, json_value, lines, whole
from minitransformer.finetune.rows.squad import is_squad, questions
from minitransformer.storage.files import quote

Records = Iterator[tuple[str, Mapping[str, Any]]]  # where it stands, and its values by the file's names


def table(path: Path, given: Mapping[str, str]) -> Records:
    """The records of a csv or tsv file. Quotes mean something in csv, nothing in tsv.

    The first line has the names of the columns, except where the user `given` numbers for them: {"text": "1"}.
    """
    reader = cells(path)
    where, names = next(reader, ("", []))
    if given and all(name.isdecimal() and name not in names for name in given.values()):
        values, names = names, [str(number) for number in range(1, len(names) + 1)]
        yield where, dict(zip(names, values, strict=True))
    for name, times in Counter(names).items():
        if name and times > 1:
            raise DataError(f"{where}: {times} columns are called {quote(name)}; rename one of them")
    for where, values in reader:
        if len(values) != len(names):
            raise DataError(f"{where}: it has {len(values)} columns, expected {len(names)}, as in the first line")
        yield where, dict(zip(names, values, strict=True))


def cells(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The cells of each row of a csv or tsv file, the first line's among them, and where the row begins."""
    csv.field_size_limit(max(MAX_LINE, csv.field_size_limit()))  # Python's own limit is too small for a long text
    text = (line for _, line in lines(path))
    if path.suffix.lower() == ".tsv":
        reader = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(text, strict=True)
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{where}: {error}; is a quote not closed, or does a line end in a way of its own?"
            ) from error
        if row:  # not a blank line
            yield where, row


def json_lines(path: Path) -> Records:
    """The records of a file that has a JSON object on each line."""
    for number, line in lines(path):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _object(json_value(line, where), where)


def json_file(path: Path) -> Records:
    """The records of a .json file: a list of objects, or SQuAD's questions, or an object on each line after all."""
    text = whole(path)
    first = text.lstrip()[:1]
    try:
        value: Any = json_value(text, str(path)) if first else []
    except DataError:
        if first == "[":
            raise
        return json_lines(path)
    if is_squad(value):
        return questions(value, path)
    return _numbered(value if isinstance(value, list) else [value], path)


def _numbered(values: Iterable[Any], path: Path) -> Records:
    for number, value in enumerate(values, start=1):
        where = f"{path}, row {number}"
        yield where, _object(value, where)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: got {quote(value)}, expected a JSON object with a value for each column")
    return value
