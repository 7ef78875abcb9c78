"""A run as one of many: done once, gone on with where it was interrupted, and nothing of it kept in memory."""

import gc
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from minitransformer.errors import StoppedError
from minitransformer.finetune import folder
from minitransformer.finetune.data import Source, Splits, facts_of, splits
from minitransformer.finetune.job import Scores
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.run import Watch, run
from minitransformer.finetune.start import template
from minitransformer.metrics import goodness


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What many runs have in common: the model they start from, the task and the rows, split in the same way."""

    name: str | PathLike[str]
    task: str
    rows: Source
    dev: Source | float
    test: Source | float | None
    columns: Mapping[str, str] | None
    split_seed: int

    def parts(self) -> Splits:
        """The rows."""
        return splits(self.task, self.rows, dev=self.dev, test=self.test, columns=self.columns, seed=self.split_seed)

    def facts(self, parts: Splits) -> dict[str, Any]:
        """What all runs must agree in."""
        return facts_of(self.name, self.task, parts)


def run_once(
    experiment: Experiment, facts: Mapping[str, Any], recipe: Recipe, out: Path, watch: Watch | None
) -> dict[str, Scores]:
    """The scores of the run in `out`: of one that is done, of one gone on with, or of a new one.

    Raises a DataError where the folder holds a run of another recipe or over other data.
    """
    if (out / folder.METRICS).is_file():
        check_done(out, recipe, facts)
        return metrics_of(out)
    gc.collect()  # what refers to itself in a circle, and holds the last model, would stay beside the next
    try:
        return run(
            experiment.name,
            experiment.task,
            experiment.rows,
            out=out,
            dev=experiment.dev,
            test=experiment.test,
            columns=experiment.columns,
            recipe=recipe,
            split_seed=experiment.split_seed,
            resume=(out / folder.RECIPE).is_file(),
            watch=watch,
        ).metrics
    except StoppedError as error:
        raise StoppedError(
            f"{out}: stopped by signal {error.signal} and saved; the same command again goes on", error.signal
        ) from None


def check_done(out: Path, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Raise a DataError unless a run that was done before is of this recipe, over these data."""
    if recipe.learning_rate is None:  # the run has chosen one, by the model
        recipe = replace(recipe, learning_rate=folder.recipe_of(out).learning_rate)
    if recipe.chat_template is not None:  # the run has kept what is in the file
        recipe = replace(recipe, chat_template=template(recipe.chat_template))
    folder.check_same(out, recipe, facts)


def metrics_of(out: Path) -> dict[str, Scores]:
    """The scores of a run that is done; nan among them, perhaps, which is no JSON for others to read."""
    return json.loads((out / folder.METRICS).read_text(encoding="utf-8"))


def best_place(scores: Sequence[float | None], metric: str) -> int | None:
    """The place of the best score; None where there is none."""
    known = [(goodness(metric, x), -i) for i, x in enumerate(scores) if x is not None and not math.isnan(x)]
    return -max(known)[1] if known else None


def refuse_other_folder(out: Path, pattern: str) -> None:
    """Raise unless the folder has runs called so already, or is new or empty, and in a place to write to."""
    if not any(out.glob(pattern)):
        folder.refuse_full_folder(out)
