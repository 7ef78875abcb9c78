"""What every lens returns: a small frozen result that can be read, drawn, shown in a notebook and saved."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitransformer.lens.saving import FIGURES, check_path, write
from minitransformer.lens.table import Table
from minitransformer.lens.words import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minitransformer.lens.tabs import Tab


class Result(ABC):
    """The interface of all results. Those that hold tensors are `@dataclass(frozen=True, eq=False)`."""

    @property
    @abstractmethod
    def title(self) -> str:
        """What was looked at: the headline of the text, the figure and the page."""

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """One line each: what this does not show."""

    @abstractmethod
    def table(self) -> Table:
        """The numbers as rows."""

    @abstractmethod
    def figure(self) -> Figure:
        """A matplotlib figure for a paper."""

    @abstractmethod
    def tabs(self) -> tuple[Tab, ...]:
        """What a page shows of it."""

    def text(self) -> str:
        """What a terminal shows between title and notes."""
        return str(self.table())

    def facts(self) -> dict[str, object]:
        """Numbers that stand in no row, for `to_dict`."""
        return {}

    def __str__(self) -> str:
        """The title, the numbers, the notes."""
        return "\n".join((visible(self.title), "", self.text(), *("", *self.notes) * bool(self.notes)))

    def html(self) -> str:
        """A page of its own: one HTML file, which loads nothing."""
        from minitransformer.lens.page import page

        return page(self.title, self.tabs(), notes=self.notes)

    def to_dict(self) -> dict[str, Any]:
        """The title, the facts, the rows (a dict each) and the notes, ready for JSON: what is not finite is None."""
        table = self.table()
        rows = [dict(zip(table.columns, map(_plain, row), strict=True)) for row in table.rows]
        facts = {name: _plain(value) for name, value in self.facts().items()}
        return {"title": self.title, **facts, "columns": list(table.columns), "rows": rows, "notes": list(self.notes)}

    def save(self, path: str | PathLike[str]) -> Path:
        """Write a file; its suffix says what: .html, a figure (.svg .pdf .png), the numbers (.json .csv), or .txt.

        It appears when all of it is written. An InputError for another suffix, before anything is computed.
        """
        path = check_path(path)
        suffix = path.suffix.lower()
        if suffix in FIGURES:
            from minitransformer.lens.figures import drawn

            content = drawn(self.figure(), suffix[1:])
        elif suffix == ".json":
            content = (json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n").encode()
        else:
            written = self.html() if suffix == ".html" else self.table().to_csv() if suffix == ".csv" else f"{self}\n"
            content = written.encode("utf-8", "backslashreplace")
        write(path, content)
        return path

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What a notebook shows: the page in a frame of its own, or the text where it shows no pages."""
        from minitransformer.lens.page import frame

        return {"text/plain": str(self), "text/html": frame(self.html())}


def _plain(value: object) -> object:
    """The value as JSON has it."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
