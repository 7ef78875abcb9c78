"""Two runs side by side: what differs in their recipes, how good they are, and whether the difference could be luck."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from minitransformer.errors import DataError
from minitransformer.finetune import folder
from minitransformer.finetune.data import Source, splits
from minitransformer.finetune.evaluate import evaluate
from minitransformer.finetune.job import Scores
from minitransformer.finetune.many.once import metrics_of
from minitransformer.metrics import paired_bootstrap
from minitransformer.tasks.task import Row

BARS = "▁▂▃▄▅▆▇█"
SURE = 0.05  # a difference that luck gives more rarely than this is called one


@dataclass(frozen=True)
class Comparison:
    """Two runs, A and B."""

    folders: tuple[Path, Path]
    differences: dict[str, tuple[Any, Any]]  # fields of the recipe, and what else the runs are made of
    metrics: tuple[dict[str, Scores], dict[str, Scores]]  # as each run has written them
    curves: dict[str, tuple[list[float], list[float]]]  # the loss of each step, and each score of an evaluation
    judged_by: str  # which rows both were judged by here
    metric: str  # by which the task is judged
    row_metric: str  # each row's score, in the bootstrap
    rows: int
    scores: tuple[Scores, Scores]  # on these rows
    bootstrap: dict[str, float]  # see `metrics.paired_bootstrap`: A - B

    def verdict(self) -> str:
        """Whether the difference could be luck, in words."""
        difference, p = self.bootstrap["difference"], self.bootstrap["p"]
        if difference == 0:
            return f"A and B are equally good on these {self.rows:,} rows."
        better, worse = ("A", "B") if difference > 0 else ("B", "A")
        low, high = sorted(math.copysign(1, difference) * self.bootstrap[end] for end in ("low", "high"))
        told = f"{better} is better than {worse} by {abs(difference):.4g} {self.row_metric} a row"
        told += f" (95 %: {low:.4g} to {high:.4g})"
        if p < SURE:
            return f"{told}. That is hardly luck: of equally good runs, {p:.1%} would differ as much on such rows."
        return f"{told}. That could be luck: of equally good runs, {p:.0%} would differ as much on such rows."


def compare(
    run_a: str | PathLike[str],
    run_b: str | PathLike[str],
    *,
    data: Source | None = None,
    columns: Mapping[str, str] | None = None,
) -> Comparison:
    """Judge two runs by the same rows: those of `data`, or the dev rows, if both runs had the same.

    Raises a DataError where there are no such rows.
    """
    folders = Path(run_a), Path(run_b)
    facts_a, facts_b = (finished(each) for each in folders)
    if facts_a["task"] != facts_b["task"]:
        raise DataError(f"{run_a} is a run of {facts_a['task']}, {run_b} of {facts_b['task']}; nothing to compare")
    judged_by = "the dev rows of both" if data is None else "the rows given"
    rows = common_rows(folders, facts_a, facts_b) if data is None else data
    first, second = (evaluate(each, rows, columns=None if data is None else columns) for each in folders)
    pairs = [
        (a, b)
        for a, b in zip(first.per_row(), second.per_row(), strict=True)
        if math.isfinite(a) and math.isfinite(b)  # a row alone may have no score, or one without end
    ]
    return Comparison(
        folders=folders,
        differences=differences(folders, facts_a, facts_b),
        metrics=(metrics_of(folders[0]), metrics_of(folders[1])),
        curves=curves(folders),
        judged_by=judged_by,
        metric=first.task.kind.metric,
        row_metric=first.task.kind.row_metric,
        rows=len(pairs),
        scores=(first.metrics, second.metrics),
        bootstrap=paired_bootstrap([a for a, _ in pairs], [b for _, b in pairs]),
    )


def finished(run: Path) -> dict[str, Any]:
    """The model, task and data of a run that is done."""
    folder.refuse_unfinished(run)
    folder.recipe_of(run)  # an error that says so where there is no run
    return folder.data_of(run)


def common_rows(folders: tuple[Path, Path], facts_a: Mapping[str, Any], facts_b: Mapping[str, Any]) -> list[Row]:
    """The dev rows of both runs. A DataError where they differ or are not there any more."""
    if any(facts_a.get(name) != facts_b.get(name) for name in ("sha256", "rows")):
        raise DataError(f"{folders[0]} and {folders[1]} have other rows, or split them otherwise; give --data FILE")
    given = facts_a.get("given")
    if not isinstance(given, dict):
        raise DataError(f"{folders[0]}: its rows were no files; give --data FILE")
    seed = given.get("split_seed")
    parts = splits(
        facts_a["task"],
        given["rows"],
        dev=given["dev"],
        test=given["test"],
        columns=given["columns"],
        seed=folder.recipe_of(folders[0]).seed if seed is None else seed,
    )
    if parts.facts()["sha256"] != facts_a["sha256"]:
        raise DataError(f"{folders[0]}: its rows have changed since; give --data FILE")
    if not parts.dev:
        raise DataError(f"{folders[0]}: it had no dev rows; give --data FILE")
    return parts.dev


def differences(
    folders: tuple[Path, Path], facts_a: Mapping[str, Any], facts_b: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """The fields of the recipe in which two runs differ; and the model, the data."""
    recipes = [asdict(folder.recipe_of(each)) for each in folders]
    made_of = [
        {"model": facts["name"], "rows": facts["rows"], "sha256": facts["sha256"], **recipe}
        for facts, recipe in zip((facts_a, facts_b), recipes, strict=True)
    ]
    return {name: (made_of[0][name], made_of[1][name]) for name in made_of[0] if made_of[0][name] != made_of[1][name]}


def curves(folders: tuple[Path, Path]) -> dict[str, tuple[list[float], list[float]]]:
    """Of both runs the loss of each step, as "loss", and each score of the evaluations, as "dev loss" and so on."""
    both = [folder.history(each) for each in folders]
    names = [name for history in both for event in history if event["event"] == "evaluation" for name in event]
    found = {"loss": tuple(series(history, "step", "loss") for history in both)}
    for name in dict.fromkeys(names):
        if name not in ("event", "step", "metric", "best"):
            found[f"dev {name}"] = tuple(series(history, "evaluation", name) for history in both)
    return found  # type: ignore[return-value]  # tuples of two


def series(history: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[float]:
    """One of the numbers of the events of one kind."""
    return [event[name] for event in history if event["event"] == kind and name in event]


def sparkline(values: Sequence[float], low: float, high: float, width: int = 32) -> str:
    """The values as bars from `low` to `high`; of more than `width`, the mean of each that share a place."""
    known = [x for x in values if math.isfinite(x)]
    bars = ""
    for i in range(min(width, len(known))):
        of_place = known[i * len(known) // min(width, len(known)) : (i + 1) * len(known) // min(width, len(known))]
        share = (sum(of_place) / len(of_place) - low) / (high - low) if high > low else 0.0
        bars += BARS[min(len(BARS) - 1, int(share * len(BARS)))]
    return bars
