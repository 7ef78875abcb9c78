"""Which columns each task takes from a file, and what they are called there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from minitransformer.errors import DataError
from minitransformer.storage.files import listed, quote
from minitransformer.tasks import TASKS, Row

ABSENT = object()


def value_of(record: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or ABSENT; of "translation.de", that of "de" in the column "translation"."""
    if name in record:
        return record[name]
    outer, _, inner = name.partition(".")
    return value_of(record[outer], inner) if inner and isinstance(record.get(outer), Mapping) else ABSENT


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a file: for which task, which columns, and what they are called in the file."""

    task: str
    names: Mapping[str, str]  # our name of a column -> the file's
    needed: tuple[str, ...]  # ours; the others are taken where the file has them
    given: Mapping[str, str]  # those of `names` that the user gave
    targets: bool  # whether what is to be learned must be there

    def row(self, record: Mapping[str, Any], where: str) -> Row:
        """The wanted columns of a record, under our names."""
        row = Row(where=where)
        for ours, name in self.names.items():
            value = value_of(record, name)
            if value is not ABSENT and (ours in self.needed or value is not None):
                row[ours] = value
            elif ours in self.needed:
                raise DataError(f"{where}: {self._missing(ours, record)}")
        return row

    def among(self, there: Sequence[str]) -> list[str]:
        """The columns to read of those that are there; where a needed one is missing all, for the message about it."""
        outer = {name if name in there else name.partition(".")[0] for name in self.names.values()}
        if all(self.names[ours] in there or self.names[ours].partition(".")[0] in there for ours in self.needed):
            return [name for name in there if name in outer]
        return list(there)

    def _missing(self, ours: str, record: Iterable[str]) -> str:
        name, there = self.names[ours], [str(column) for column in record]
        guess = did_you_mean(name, there)
        if len(there) == 1 and ";" in there[0]:
            guess = "; it seems to be separated by ';', expected ',' in a csv, or tabs in a tsv"
        way_out = (
            f"say which it is with columns={{{ours!r}: '...'}}, on the command line --columns {ours}=...; "
            f"in a csv or tsv without names, its number from 1"
        )
        return f"no column {quote(name)} among {listed(there)}{guess}; {way_out}"


def wanted_columns(task: str, columns: Mapping[str, str], *, targets: bool) -> Wanted:
    """What to take from a file for `task`; `columns` says what some of our columns are called there."""
    if task not in TASKS:
        raise DataError(f"task: got {task!r}, expected one of {', '.join(TASKS)}{did_you_mean(task, TASKS)}")
    of_task = TASKS[task].kind
    columns = {ours: str(name) for ours, name in columns.items()}  # a number, too
    ours = (*of_task.inputs, *of_task.targets, *of_task.more)
    for name in columns:
        if name not in ours:
            raise DataError(
                f"columns: got {name!r}, expected one of {', '.join(ours)} for the task {task}"
                f"{did_you_mean(name, ours)}; give our name first, the file's second: {{{ours[0]!r}: 'review'}}"
            )
    needed = of_task.inputs + (of_task.targets if targets else ())
    needed += tuple(name for name in of_task.more if name in columns)  # what is asked for by name must be there
    return Wanted(task, {name: columns.get(name, name) for name in ours}, needed, columns, targets)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'label'?`, or nothing where no known name is near."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
