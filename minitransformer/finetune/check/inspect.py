"""Look at rows as a run would read them, before anything is trained: what would stop it, what is odd, what it costs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from minitransformer.errors import DataError
from minitransformer.finetune.check.cost import cost
from minitransformer.finetune.check.examples import shown, varied
from minitransformer.finetune.check.lengths import lengths, only_unknown
from minitransformer.finetune.check.report import Finding, Part, RowsReport
from minitransformer.finetune.check.rows import (
    Counts,
    Encoded,
    Faults,
    Parts,
    baseline,
    encoded,
    findings,
    known,
    labels_of,
    missing,
    readable,
    repeated,
)
from minitransformer.finetune.data import Source, splits
from minitransformer.finetune.forward import to_own_device
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.start import check_recipe, make_task, start
from minitransformer.pretrained import Pretrained
from minitransformer.tasks.task import Row

EXAMPLES = 3  # that are shown


def inspect_rows(
    name: str | PathLike[str],
    task: str,
    rows: Source,
    *,
    dev: Source | float = 0.1,
    test: Source | float | None = None,
    columns: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
) -> RowsReport:
    """What `finetune` with these arguments would read, lose to truncation, stumble over, and need. Nothing is trained.

    A row that a run would refuse is counted and named, with all others of its kind. A DataError is raised only for
    what makes reading impossible, such as a missing column.
    """
    check_recipe(task, recipe or Recipe())
    recipe = recipe or Recipe()
    given = splits(task, rows, dev=dev, test=test, columns=columns, seed=recipe.seed)
    sources = {"train": rows, "dev": dev, "test": test}
    parts: Parts = {split: getattr(given, split) for split in sources if getattr(given, split)}
    good, faults, counts = {}, [], {}
    for split, part in parts.items():
        good[split], found = readable(task, part)
        faults += found
        counts[split] = Counter(label for row in good[split] for label in labels_of(task, row))
    report = RowsReport(
        model=fspath(name),
        task=task,
        parts={
            split: part_of(parts[split], sources[split], columns or {}, counts[split], recipe.seed) for split in parts
        },
        labels=tuple(sorted(counts["train"])),
        remarks=tuple(repeated(task, parts)),
        stops=tuple(findings(faults)),
    )
    labelled, _ = readable(task, given.labelled)
    if not good["train"]:
        return report
    try:
        model, complete = start(fspath(name), task, labelled, recipe)
    except DataError as error:  # one class alone, or far too many: there is no model for them
        return replace(report, stops=(*report.stops, Finding(what=str(error), count=1, places=())))
    to_own_device(model.transformer, complete)
    return with_model(report, model, complete, good, faults, counts)


def with_model(
    report: RowsReport, model: Pretrained, recipe: Recipe, good: Parts, faults: Faults, counts: Counts
) -> RowsReport:
    """The report, and all that only a model with its tokenizer can tell."""
    name = report.task
    task = make_task(name, model, recipe, good["train"])
    labels = model.labels if task.kind.labels_of is not None else ()
    read: dict[str, Encoded] = {}
    for split, rows in good.items():
        fitting, strange = known(name, rows, labels)
        read[split] = encoded(task, fitting)
        faults = [*faults, *strange, *read[split].faults]
    parts, remarks, longest = dict(report.parts), [*report.remarks, *missing(good, counts, labels)], 0
    for split, each in read.items():
        if each.examples and "input_ids" in each.examples[0].inputs:
            found = lengths(model.tokenizer, task, each.rows, each.examples)
            parts[split] = replace(parts[split], lengths=found)
            longest = max(longest, found.longest)
            remarks += findings(unknown_texts(model, split, each))
    train = read["train"]
    chosen = varied(train.examples, EXAMPLES)
    return replace(
        report,
        parts=parts,
        labels=labels,
        judged=task.kind.learned,
        max_length=getattr(task, "max_length", None),
        highest_length=model.max_length,
        full_length=None if task.kind.documents else longest or None,
        baseline=baseline(name, {split: each.rows for split, each in read.items()}, counts),
        stops=tuple(findings(faults)),
        remarks=tuple(remarks),
        examples=tuple(shown(task, train.rows, chosen, recipe.seed)),
        cost=cost(model.transformer, task, train.examples, recipe) if train.examples else None,
    )


def unknown_texts(model: Pretrained, split: str, read: Encoded) -> Faults:
    """The rows whose text has no token that the vocabulary knows, and where they are."""
    places = [example.row for example in read.examples if only_unknown(model.tokenizer, example)]
    return [(f"row of {split} with unknown tokens alone", read.rows[place].where) for place in places]


def part_of(rows: list[Row], source: Any, columns: Mapping[str, str], labels: Counter[str], seed: int) -> Part:
    """What is told of a split without a model."""
    names = [source] if isinstance(source, str | PathLike) else source
    if isinstance(names, int | float):
        come_from = rows[0].where if len(rows) == 1 else f"split off from train by seed {seed}"
    elif all(isinstance(each, str | PathLike) for each in names):
        come_from = " and ".join(Path(each).name if Path(each).exists() else fspath(each) for each in names)
    else:
        come_from = "rows as given"
    names_there = tuple(f"{ours}={columns[ours]}" if ours in columns else ours for ours in rows[0])
    return Part(rows=len(rows), source=come_from, columns=names_there, labels=dict(labels), lengths=None)
