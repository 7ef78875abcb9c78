"""The rows of a run, in their three parts."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from minitransformer.checkpoint import adapter_base, is_adapter
from minitransformer.errors import DataError
from minitransformer.finetune.rows import fingerprint, read_rows, split_rows
from minitransformer.finetune.rows.columns import ABSENT, value_of
from minitransformer.finetune.rows.documents import cut_document
from minitransformer.storage import resolve
from minitransformer.tasks import TASKS
from minitransformer.tasks.task import Row

Source = str | PathLike[str] | Sequence[str | PathLike[str]] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Splits:
    """Rows to train on, to choose the best weights by (dev), and to judge those by once, at the end (test)."""

    train: list[Row]
    dev: list[Row]
    test: list[Row]
    labelled: list[Row] = field(default_factory=list)  # train, and what was split off it: which labels there are

    def facts(self) -> dict[str, Any]:
        """How many rows there are, and a hash of all of them."""
        counts = {"train": len(self.train), "dev": len(self.dev), "test": len(self.test)}
        return {"rows": counts, "sha256": fingerprint([*self.train, *self.dev, *self.test])}


def splits(
    task: str,
    rows: Source,
    *,
    dev: Source | float,
    test: Source | float | None,
    columns: Mapping[str, str] | None,
    seed: int,
) -> Splits:
    """Read the rows; where dev or test is a share of them (or a number of rows), split it off, by the seed.

    Of a single document, lm and mlm take shares of its characters: see `cut_document`.
    """
    given = rows_of(rows, task, columns)
    shares = {name: _share(name, part) for name, part in (("dev", dev), ("test", test)) if not _is_source(part)}
    train, *held_out = given, list[Row](), list[Row]()
    if any(shares.values()):
        train, *held_out = _hold_out(task, given, dev=shares.get("dev", 0), test=shares.get("test", 0), seed=seed)
    others = [
        rows_of(part, task, columns) if _is_source(part) else split
        for part, split in zip((dev, test), held_out, strict=True)
    ]
    return Splits(train, others[0], others[1], labelled=given)


def _hold_out(task: str, rows: list[Row], *, dev: float, test: float, seed: int) -> tuple[list[Row], ...]:
    counted = any(isinstance(part, int) and part for part in (dev, test))  # a number of rows, of one?
    if TASKS[task].kind.documents and len(rows) == 1 and not counted:
        return cut_document(rows[0], dev=dev, test=test)
    return split_rows(rows, dev=dev, test=test, stratify="label" if TASKS[task].kind.has_classes else None, seed=seed)


def rows_of(source: Any, task: str, columns: Mapping[str, str] | None, *, targets: bool = True) -> list[Row]:
    """The rows of files, or rows as they are given: dicts of columns."""
    if isinstance(source, str | PathLike):
        return read_rows(fspath(source), task, columns=columns, targets=targets)
    if not isinstance(source, Iterable) or isinstance(source, Mapping):
        raise DataError(f"rows: got {source!r:.60}, expected the name of a file, or a list of dicts")
    given = list(source)
    if given and all(isinstance(each, str | PathLike) for each in given):
        return read_rows([fspath(each) for each in given], task, columns=columns, targets=targets)
    if not given or not all(isinstance(each, Mapping) for each in given):
        raise DataError(f"rows: got {given!r:.60}, expected the name of a file, or a list of dicts")
    rows = [each if isinstance(each, Row) else Row(each, where=f"row {i}") for i, each in enumerate(given)]
    return [renamed(row, columns) for row in rows] if columns else rows


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """A row under our columns' names."""
    found = {ours: value_of(row, theirs) for ours, theirs in columns.items()}
    missing = [columns[ours] for ours, value in found.items() if value is ABSENT]
    if missing:
        raise DataError(f"{row.where}: no column {missing[0]!r} among {', '.join(map(str, row))}")
    return Row({**row, **found}, where=row.where)


def facts_of(name: str | PathLike[str], task: str, parts: Splits) -> dict[str, Any]:
    """What a run is a function of, besides its recipe; a folder may hold other weights when the run goes on."""
    return {"name": place_of(name), "weights_sha256": weights_hash(name), "task": task, **parts.facts()}


def weights_hash(name: str | PathLike[str]) -> str:
    """A hash of a model's files of weights; of an adapter's, and those of its base."""
    whole, folder = hashlib.sha256(), resolve(name)
    folders = [folder, resolve(adapter_base(folder))] if is_adapter(folder) else [folder]
    for path in [path for each in folders for path in sorted(each.glob("*.safetensors"))]:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def place_of(name: str | PathLike[str]) -> str:
    """A model's name, in full where it is a folder: the run may go on elsewhere."""
    return str(Path(name).absolute()) if Path(name).is_dir() else str(name)


def on_disk(**given: Any) -> dict[str, Any] | None:
    """What was given, with full paths, to read the rows again; None where some of them were no files."""
    found = {name: _full(part) for name, part in given.items()}
    if any(isinstance(part, list) and _rows_in(part) for part in found.values()):
        return None
    try:
        json.dumps(found)
    except TypeError:
        return None
    return found


def _full(part: Any) -> Any:
    if isinstance(part, list | tuple):
        return [_full(each) for each in part]
    if isinstance(part, str | PathLike) and Path(part).exists():
        return str(Path(part).absolute())
    return part


def _rows_in(part: list[Any]) -> bool:
    return any(isinstance(each, Mapping) for each in part)


def _is_source(part: object) -> bool:
    return part is not None and not isinstance(part, Real)


def _share(name: str, part: Any) -> float | int:
    if part is not None and (isinstance(part, bool) or part < 0):
        raise DataError(f"{name}: got {part!r}, expected a share from 0 to 1, a number of rows, or a file")
    return part or 0
