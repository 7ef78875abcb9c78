"""Sentences with a tag for each word, as CoNLL writes them: a word on each line, a blank line after each sentence."""

import re
from collections.abc import Iterator
from pathlib import Path

from minitransformer.errors import DataError
from minitransformer.finetune.rows.columns import Wanted
from minitransformer.finetune.rows.lines import plain_lines
from minitransformer.tasks import Row

SUFFIXES = (".conll", ".bio", ".iob", ".iob2", ".tsv", ".txt")


def sentences(path: Path, wanted: Wanted) -> Iterator[Row]:
    """The sentences of a file. The word is the first column and the tag the last, unless the user gave their numbers.

    Columns are separated by tabs or spaces. Lines of -DOCSTART- are left out.
    """
    row = Row(where="")
    for number, line in plain_lines(path):
        where = f"{path}, line {number}"
        columns = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        if not line.strip():
            if row:
                yield row
            row = Row(where="")
        elif columns[0] != "-DOCSTART-":
            row = row or Row(where=where)
            for name, default in (("words", 1), ("tags", len(columns))):
                if name in wanted.needed:
                    row.setdefault(name, []).append(_column(columns, name, wanted, default, where))
    if row:
        yield row


def _column(columns: list[str], name: str, wanted: Wanted, default: int, where: str) -> str:
    number = wanted.given.get(name, str(default))
    if not number.isdecimal() or int(number) < 1:
        raise DataError(f"columns: got {name}={number!r}, expected a number from 1: the file has no names of columns")
    if name == "tags" and len(columns) < 2:
        raise DataError(f"{where}: one column, expected a word and its tag, separated by a tab or spaces")
    value = columns[int(number) - 1] if int(number) <= len(columns) else ""
    if not value.strip():
        raise DataError(f"{where}: column {number}, for {name!r}, is empty or not there; it has {len(columns)} columns")
    return value
