"""Rows and columns: for a terminal, for a file, for a page."""

import csv
import io
from dataclasses import dataclass

from minitransformer.lens.words import aligned, cell, is_number


@dataclass(frozen=True)
class Table:
    """Rows of plain Python: str, int, float, bool, None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]

    def __str__(self) -> str:
        """Aligned columns; a token's control characters are shown as their escapes."""
        cells = [[cell(value) for value in row] for row in self.rows]
        of_columns = [[row[place] for row in self.rows if row[place] is not None] for place in range(len(self.columns))]
        numbers = [bool(values) and all(map(is_number, values)) for values in of_columns]
        return aligned([[cell(name) for name in self.columns], *cells], numbers)

    def to_csv(self) -> str:
        """The rows as CSV, numbers in full."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([self.columns, *self.rows])
        return file.getvalue()
