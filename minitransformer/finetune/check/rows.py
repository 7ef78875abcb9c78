"""What is wrong with rows, or odd about them: labels, rows that repeat others, rows that cannot be encoded."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from minitransformer.errors import DataError, TokenizerError
from minitransformer.finetune.check.report import PLACES, Finding
from minitransformer.finetune.rows import content_hash
from minitransformer.tasks import TASKS
from minitransformer.tasks.task import Example, Row, Task

Parts = Mapping[str, list[Row]]  # the rows of train, dev and test, where there are any
Counts = Mapping[str, Counter[str]]  # how often each label is in each of them
Faults = list[tuple[str, str]]  # what is wrong with a row, and where it is


def labels_of(task: str, row: Row) -> list[str]:
    """The labels of a row: one, or one for each word; none where the task has none. A DataError for a row without."""
    labels_in = TASKS[task].kind.labels_in
    return [] if labels_in is None else labels_in(row)


def findings(whats_and_places: Iterable[tuple[str, str]]) -> list[Finding]:
    """The same thing of several rows as one finding; the most frequent first."""
    places: dict[str, list[str]] = defaultdict(list)
    for what, where in whats_and_places:
        places[what].append(where)
    found = [Finding(what=what, count=len(them), places=tuple(them[:PLACES])) for what, them in places.items()]
    return sorted(found, key=lambda each: -each.count)


def fault_of(row: Row, error: Exception) -> tuple[str, str]:
    """What an error says of a row, without the row's place; and that place."""
    return str(error).removeprefix(row.where).lstrip(":, "), row.where


def readable(task: str, rows: Sequence[Row]) -> tuple[list[Row], Faults]:
    """The rows whose labels can be read, and of each other row what is wrong with it, and where it is."""
    good, faults = [], []
    for row in rows:
        try:
            labels_of(task, row)
        except DataError as error:
            faults.append(fault_of(row, error))
        else:
            good.append(row)
    return good, faults


def known(task: str, rows: Sequence[Row], labels: Sequence[str]) -> tuple[list[Row], Faults]:
    """The rows whose labels are all among those to learn; and each label that is not, with its row's place."""
    if not labels:
        return list(rows), []
    strange = [sorted(set(labels_of(task, row)) - set(labels)) for row in rows]
    good = [row for row, names in zip(rows, strange, strict=True) if not names]
    shown = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
    return good, [
        (f"unknown label {name!r}, expected one of {shown}", row.where)
        for row, names in zip(rows, strange, strict=True)
        for name in names
    ]


@dataclass(frozen=True)
class Encoded:
    """The examples of the rows that can be encoded; of the others what is wrong, and where they are."""

    rows: list[Row]
    examples: list[Example]
    faults: Faults


def encoded(task: Task, rows: Sequence[Row]) -> Encoded:
    """Encode all rows that can be; where a call fails its halves are tried, down to the rows at fault."""
    if not rows:
        return Encoded([], [], [])
    try:
        return Encoded(list(rows), task.encode(rows), [])
    except (DataError, TokenizerError) as error:
        if len(rows) == 1:
            return Encoded([], [], [fault_of(rows[0], error)])
        half = len(rows) // 2
        first, second = encoded(task, rows[:half]), encoded(task, rows[half:])
        faults = first.faults + second.faults or [(str(error), rows[half].where)]  # rows that do not go together
        moved = [replace(example, row=example.row + len(first.rows)) for example in second.examples]
        return Encoded(first.rows + second.rows, first.examples + moved, faults)


def missing(parts: Parts, counts: Counts, labels: Sequence[str]) -> list[Finding]:
    """Labels of the map that train or dev has no row of."""
    found = []
    for name in ("train", "dev"):
        absent = [label for label in labels if parts.get(name) and not counts[name][label]]
        if absent:
            shown = ", ".join(absent[:8]) + (", …" if len(absent) > 8 else "")
            found.append(Finding(what=f"label that does not occur in {name}: {shown}", count=len(absent), places=()))
    return found


def repeated(task: str, parts: Parts) -> list[Finding]:
    """Rows that the model reads twice: within a split, in two splits, and with something else to learn."""
    seen: dict[bytes, tuple[str, Row]] = {}  # input -> the split and the row where it stands first
    contradicted: set[bytes] = set()
    found = []
    for name, rows in parts.items():
        for row in rows:
            key = _content(row, _inputs(task, row))
            if key not in seen:
                seen[key] = name, row
                continue
            split, first = seen[key]
            file = row.where.rpartition(", ")[0]
            where = f"{row.where} = {first.where.removeprefix(f'{file}, ')}"
            repeats = f"row of {name} repeats an earlier one" if split == name else f"row of {name} is in {split}, too"
            found.append((repeats, where))
            targets = TASKS[task].kind.targets
            if targets and key not in contradicted and _content(row, targets) != _content(first, targets):
                contradicted.add(key)
                found.append((f"input that has two different {targets[0]!r}: a contradiction", where))
    return findings(found)


def _inputs(task: str, row: Row) -> list[str]:
    """The columns that the model reads."""
    return [name for name in row if name in (*TASKS[task].kind.inputs, "pair", "head", "tail")]


def _content(row: Row, columns: Iterable[str]) -> bytes:
    return content_hash({name: row.get(name) for name in columns})


def baseline(task: str, parts: Parts, counts: Counts) -> str:
    """How good it is to say always the same: what a model must be better than."""
    judged = "dev" if parts.get("dev") else "train"
    if task in ("classify", "relation", "image", "tag", "choice") and counts["train"]:
        (label, _), total = counts["train"].most_common(1)[0], sum(counts[judged].values())
        what = "words" if task == "tag" else "rows"
        return f"always {label!r} is right for {counts[judged][label] / max(1, total):.1%} of the {what} of {judged}"
    if task == "regress":
        mean = sum(row.number("label") for row in parts["train"]) / len(parts["train"])
        error = sum(abs(row.number("label") - mean) for row in parts[judged]) / len(parts[judged])
        return f"always {mean:.4g}, the mean of train, is off by {error:.4g} on average in {judged}"
    if task == "span":
        empty = sum(not row["answers"] for row in parts[judged])
        return f"always no answer is right for {empty / len(parts[judged]):.1%} of the rows of {judged}"
    return ""
