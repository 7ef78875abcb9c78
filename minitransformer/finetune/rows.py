"""Rows from the files people have: csv, tsv, jsonl."""

import csv
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minitransformer.errors import DataError, NotFoundError
from minitransformer.tasks import Row

SUFFIXES = (".csv", ".tsv", ".jsonl")


def read_rows(path: str | Path, *, text: str = "text", label: str = "label") -> list[Row]:
    """The rows of a file that has a column (or key) of texts and one of labels. Errors name the file and the line."""
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: got a {path.suffix or 'nameless'} file, expected one of {', '.join(SUFFIXES)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            read = _objects(lines, path) if path.suffix.lower() == ".jsonl" else _table(lines, path, (text, label))
            rows = [_row(record, line, path, text, label) for line, record in read]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    if not rows:
        raise DataError(f"{path}: no rows in it")
    return rows


def _table(lines: Iterable[str], path: Path, columns: tuple[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and record for each line after the header. Quotes mean something in csv, nothing in tsv."""
    csv.field_size_limit(1 << 24)
    tsv = path.suffix.lower() == ".tsv"
    reader = csv.DictReader(
        lines, delimiter="\t" if tsv else ",", quoting=csv.QUOTE_NONE if tsv else csv.QUOTE_MINIMAL, strict=True
    )
    try:
        header = reader.fieldnames or []
        for column in columns:
            if column not in header:
                raise DataError(
                    f"{path}: no column {column!r} in the first line, which has {', '.join(header) or 'none'}"
                )
        for record in reader:
            if None in record or None in record.values():
                raise DataError(f"{path}, line {reader.line_num}: expected {len(header)} columns, as in the first line")
            yield reader.line_num, record
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.reader.line_num}: {error}") from error


def _objects(lines: Iterable[str], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: no JSON object: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: got {type(record).__name__}, expected a JSON object")
        yield number, record


def _row(record: dict[str, Any], line: int, path: Path, text: str, label: str) -> Row:
    for key in (text, label):
        if key not in record:
            raise DataError(f"{path}, line {line}: no {key!r} among {', '.join(record)}")
    value, name = record[text], record[label]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{path}, line {line}: {text!r} is {value!r}, expected a text")
    if isinstance(name, bool | float | dict | list) or name is None or not str(name).strip():
        raise DataError(f"{path}, line {line}: {label!r} is {name!r}, expected the name of a class")
    return Row(text=value, label=str(name))


def label_set(rows: Sequence[Row]) -> tuple[str, ...]:
    """The labels of these rows, sorted. At least two."""
    names = tuple(sorted({row.label for row in rows}))
    if len(names) < 2:
        raise DataError(f"all {len(rows)} rows have the label {names[0]!r}; there is nothing to tell apart")
    if len(names) > 1000 or len(names) * 2 > len(rows):
        raise DataError(f"{len(names)} different labels in {len(rows)} rows; is this the right column?")
    return names


def check_labels(rows: Sequence[Row], labels: Sequence[str], where: str) -> None:
    """Raise a DataError if a row has a label that the training rows have not."""
    unknown = Counter(row.label for row in rows if row.label not in set(labels))
    if unknown:
        raise DataError(f"{where}: unknown labels {dict(unknown)}, expected one of {', '.join(labels)}")


def split(rows: Sequence[Row], held_out: int, *, seed: int) -> tuple[list[Row], list[Row]]:
    """Two parts, the second of `held_out` rows, each with the labels in the same proportions (to a row)."""
    if not 0 < held_out < len(rows):
        raise DataError(f"held-out rows: got {held_out} of {len(rows)}, expected at least 1 and not all")
    rng = random.Random(seed)
    shuffled = list(rows)
    rng.shuffle(shuffled)
    counts = Counter(row.label for row in shuffled)
    # Each row's place among those of its label, as a share: taking the smallest shares takes of all labels alike.
    seen: Counter[str] = Counter()
    shares = []
    for row in shuffled:
        shares.append(((seen[row.label] + 0.5) / counts[row.label], row))  # a label's only row is not held out
        seen[row.label] += 1
    order = [row for _, row in sorted(shares, key=lambda share: share[0])]
    return order[held_out:], order[:held_out]
