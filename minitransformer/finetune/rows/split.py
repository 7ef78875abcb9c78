"""Rows to train on, rows to choose the best weights by (dev), and rows to judge those by once, at the end (test)."""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from minitransformer.errors import DataError
from minitransformer.tasks import Row

Group = list[int]  # the places of rows that belong together: on one side, whichever that is


def split_rows(
    rows: Sequence[Row], *, dev: float = 0.1, test: float = 0.0, stratify: str | None = "label", seed: int = 0
) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows in three parts, train, dev and test; each keeps the order that the rows had.

    dev, test: a share of the rows (0.1) or a number of them (100). Where the column `stratify` has classes, each part
    has them in the same proportions, to a row, and no class is missing from the rows to train on.
    Rows with the same content are never divided, nor are those with the same context where there are no classes;
    a part has then as many rows as whole groups allow, and not more than asked for.
    """
    sizes = [_size("dev", dev, len(rows)), _size("test", test, len(rows))]
    if sum(sizes) >= len(rows):
        raise DataError(
            f"cannot split {len(rows)} rows: dev={dev} and test={test} leave none to train on; take less, or give "
            f"files of their own"
        )
    rng = random.Random(seed)
    strata = _strata(rows, stratify)
    rng.shuffle(strata)  # so that where classes are equally entitled to one more row, none is always the first
    for groups in strata:
        rng.shuffle(groups)
    counts = [sum(map(len, groups)) for groups in strata]
    held_out = [_take(name, strata, counts, size) for name, size in zip(("dev", "test"), sizes, strict=True)]
    train = [place for groups in strata for group in groups for place in group]
    in_order = [[rows[place] for place in sorted(part)] for part in (train, *held_out)]
    return in_order[0], in_order[1], in_order[2]


def _size(name: str, part: float, total: int) -> int:
    """How many rows a part is: a number as it is, a share rounded, but at least one."""
    if isinstance(part, int) and not isinstance(part, bool) and part >= 0:
        return part
    if isinstance(part, float) and part == 0:
        return 0
    if isinstance(part, float) and 0 < part < 1:
        return max(1, round(part * total))
    raise DataError(f"{name}: got {part!r}, expected a share between 0 and 1 or a whole number of rows")


def _strata(rows: Sequence[Row], stratify: str | None) -> list[list[Group]]:
    """The groups of each class; of all rows together where they have no classes."""
    classes = [row.get(stratify) for row in rows] if stratify else [None]
    if not all(isinstance(name, str | int) for name in classes):
        return [_groups((_context(row) or content_hash(row), place) for place, row in enumerate(rows))]
    of_class = _groups((str(name).strip(), place) for place, name in enumerate(classes))
    return [_groups((content_hash(rows[place]), place) for place in places) for places in of_class]


def _context(row: Row) -> str:
    context = row.get("context")
    return context if isinstance(context, str) else ""


def _groups(keys_and_places: Iterable[tuple[Any, int]]) -> list[Group]:
    """The places that have the same key, together."""
    groups: dict[Any, Group] = {}
    for key, place in keys_and_places:
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def _take(name: str, strata: list[list[Group]], counts: Sequence[int], size: int) -> list[int]:
    """Take groups of `size` rows together out of the strata; each stratum leaves at least one group."""
    limits = [sum(map(len, groups)) - min(map(len, groups)) for groups in strata]
    if size > sum(limits):
        raise DataError(
            f"{name}: cannot hold out {size} of {sum(counts)} rows, {sum(limits)} at most: each class keeps a row to "
            f"train on, and rows that are the same or have one context stay together; give files of their own, or dev=0"
        )
    taken = []
    owed = 0  # what a stratum could not give in whole groups, the next one gives
    for groups, quota, limit in zip(strata, _quotas(counts, size, limits), limits, strict=True):
        left = []
        owed += quota
        room = min(owed, limit)
        for group in groups:
            if len(group) <= room:
                taken += group
                room -= len(group)
                owed -= len(group)
            else:
                left.append(group)
        groups[:] = left
    if size and not taken:
        smallest = min(len(group) for groups in strata for group in groups)
        raise DataError(
            f"{name}: cannot hold out {size} of {sum(counts)} rows: rows that are the same or have one context stay "
            f"together, {smallest} at least; take more"
        )
    return taken


def _quotas(counts: Sequence[int], size: int, limits: Sequence[int]) -> list[int]:
    """`size` divided in proportion to `counts`, each at most its limit, by the method of largest remainders."""
    total = sum(counts)
    quotas = [min(count * size // total, limit) for count, limit in zip(counts, limits, strict=True)]
    order = sorted(range(len(counts)), key=lambda i: -(counts[i] * size % total))
    while missing := size - sum(quotas):
        for i in [i for i in order if quotas[i] < limits[i]][:missing]:
            quotas[i] += 1
    return quotas


def fingerprint(rows: Iterable[Row]) -> str:
    """A hash of the rows' content, in their order: the same rows, the same hash."""
    whole = hashlib.sha256()
    for row in rows:
        whole.update(content_hash(row))
    return whole.hexdigest()


def content_hash(row: Mapping[str, Any]) -> bytes:
    """A hash of one row's content, whatever the order of its columns; of a file, an image, by its bytes."""
    path = row.get("path")
    if isinstance(path, str | PathLike) and Path(path).is_file():
        row = {**row, "path": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
    text = json.dumps(row, sort_keys=True, default=_told)
    return hashlib.sha256(text.encode()).digest()


def _told(value: Any) -> Any:
    """What JSON cannot hold: an image in memory by its bytes, all else as text."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, Tensor):
        value = value.cpu().numpy()
    if not hasattr(value, "tobytes"):
        return str(value)
    shape = getattr(value, "shape", None) or getattr(value, "size", None)
    return [type(value).__name__, str(shape), hashlib.sha256(value.tobytes()).hexdigest()]
