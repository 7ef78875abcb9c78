"""Lists that are written as text, as a csv or tsv file has to write them."""

from collections.abc import Callable
from typing import Any

from minitransformer.errors import DataError
from minitransformer.finetune.rows.lines import json_value
from minitransformer.storage.files import quote
from minitransformer.tasks import Row


def _at_bars(text: str) -> list[str]:
    return [part.strip() for part in text.split("|")] if text.strip() else []


# How a text becomes a list where it is not JSON. Answers and messages are always JSON.
LISTS: dict[str, Callable[[str], list[str]] | None] = {
    "words": str.split,
    "tags": str.split,
    "labels": _at_bars,
    "choices": _at_bars,
    "head": None,
    "tail": None,
    "answers": None,
    "messages": None,
}
SPANS = ("head", "tail")  # of a relation: [start, end]; what is else called so is left to the task


def read_lists(row: Row) -> None:
    """Turn the texts in a row's list columns into lists.

    A text that begins with [ is JSON: ["sad", "angry"]. Else words and tags are separated by spaces, labels and choices
    by |.
    """
    for name, split in LISTS.items():
        text = row.get(name)
        if isinstance(text, str) and (name not in SPANS or text.lstrip().startswith("[")):
            row[name] = _list(text, split, f"{row.where}: {name!r}")


def _list(text: str, split: Callable[[str], list[str]] | None, where: str) -> Any:
    if text.lstrip().startswith("[") or split is None:
        value = json_value(text, where)
        if not isinstance(value, list | dict):
            raise DataError(f"{where} is {quote(text)}, expected a JSON list")
        return value
    return split(text)
