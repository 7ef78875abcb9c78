"""Which recipe is best: many runs over the same rows, judged by the same dev rows, each in a folder of its own."""

import importlib
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from minitransformer.errors import ConfigError, DataError, DependencyError, NotFiniteError
from minitransformer.finetune import folder
from minitransformer.finetune.data import Source, Splits
from minitransformer.finetune.distributed import joined, wait, world
from minitransformer.finetune.job import Job, Scores
from minitransformer.finetune.many.once import Experiment, best_place, check_done, refuse_other_folder, run_once
from minitransformer.finetune.many.space import PAPERS, Range, Space, drawn, grid, make_space
from minitransformer.finetune.optimizers import make_optimizer
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.run import Watch, rehearse
from minitransformer.finetune.scores import metric_of
from minitransformer.finetune.start import check_task, make_task, start
from minitransformer.metrics import LOWER_IS_BETTER
from minitransformer.storage import read_json
from minitransformer.storage.files import write_json
from minitransformer.tasks import TASKS

SAMPLERS = ("grid", "random", "tpe")
TRIALS = 20
RESULT, FAILED = "search.json", "failed.json"
JUDGED_BY_THE_MODEL = (  # fields whose values are wrong for some models and right for others
    "train", "lora_targets", "class_weights", "metric", "reinitialise_top", "unfreeze_every", "layer_decay",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One of the recipes that were tried, and how good it was."""

    folder: Path
    values: dict[str, Any]  # the fields that were searched
    metrics: dict[str, Scores]
    score: float | None  # of the dev rows; None where there is no number
    error: str | None = None  # why training ended early, if it did


@dataclass(frozen=True)
class Search:
    """All trials, the best one first."""

    folder: Path
    metric: str
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The best: its folder is the model. None where no trial has a score."""
        return self.trials[0] if self.trials and self.trials[0].score is not None else None


def search(
    name: str | PathLike[str],
    task: str,
    rows: Source,
    *,
    out: str | PathLike[str],
    space: str | Mapping[str, Sequence[Any] | Range] = PAPERS,
    sampler: str = "grid",
    trials: int | None = None,
    dev: Source | float = 0.1,
    test: Source | float | None = None,
    columns: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    watch: Watch | None = None,
) -> Search:
    """Try recipes from a `space` (see `space.make_space`), each in out/trial-000 and so on, and say which is best.

    grid: all of the space. random: so many `trials`, drawn by the recipe's seed. tpe: each one where the ones before
    it were good (Bergstra et al. 2011; needs optuna). What is not in the space is as in the `recipe`. Trials that are
    done are not repeated, and one that was interrupted goes on: call it again in the same way. A trial whose training
    breaks down is kept as such. No model stays in memory, and no checkpoint of a trial that is done on the disk.
    """
    check_task(task, recipe or Recipe())
    recipe, out = recipe or Recipe(), Path(out)
    ranges = make_space(space, recipe)
    planned = plan(ranges, sampler, trials, recipe.seed)
    experiment = Experiment(
        name=name, task=task, rows=rows, dev=dev, test=test, columns=columns, split_seed=recipe.seed
    )
    with joined() as here:
        refuse_other_folder(out, "trial-*")
        parts = experiment.parts()
        facts = experiment.facts(parts)
        check_with_model(experiment, parts, ranges, recipe, out)
        metric = metric_of(recipe, TASKS[task])
        found: list[Trial] = []
        for number, values in enumerate(planned):
            values = propose(ranges, found, metric, f"{recipe.seed}/{number}") if values is None else values
            if values is None:
                break  # there are no others
            label = f"trial-{number:03d}"
            if watch is not None and here.first:
                watch({"event": "run", "number": number + 1, "of": len(planned), "name": label, "values": values})
            found.append(attempt(experiment, facts, replace(recipe, **values), out / label, values, metric, watch))
            if here.first:
                write_json(as_data(ranked(out, metric, found)), out / RESULT)
    return ranked(out, metric, found)


def plan(space: Space, sampler: str, trials: int | None, seed: int) -> list[dict[str, Any] | None]:
    """The values of each trial; None where they follow from the trials before it."""
    if sampler not in SAMPLERS:
        raise ConfigError(f"sampler: got {sampler!r}, expected one of {', '.join(SAMPLERS)}")
    if trials is not None and trials < 1:
        raise ConfigError(f"trials: got {trials}, expected 1 or more")
    if sampler == "tpe":
        optuna()
        return [None] * (trials or TRIALS)
    if sampler == "random":
        return list(drawn(space, trials or TRIALS, seed))
    whole = grid(space)
    if trials is not None and trials < len(whole):
        raise ConfigError(f"trials: got {trials}, but the grid has {len(whole)}; leave it out, or take random")
    return list(whole)


def check_with_model(experiment: Experiment, parts: Splits, space: Space, recipe: Recipe, out: Path) -> None:
    """Raise before the first trial for values that do not fit this model, these classes, this task's scores."""
    if not parts.dev:
        raise DataError("dev: got no rows, but a search judges by them; give a share, a number of rows, or a file")
    ends: dict[str, tuple[Any, ...]] = {
        name: (values.low, values.high) if isinstance(values, Range) else values for name, values in space.items()
    }
    for name, of_field in ends.items():
        for value in of_field:
            check_task(experiment.task, replace(recipe, **{name: value}))
    for values in grid({name: ends[name] for name in JUDGED_BY_THE_MODEL if name in ends}):
        model, complete = start(str(experiment.name), experiment.task, parts.labelled, replace(recipe, **values))
        task = make_task(experiment.task, model, complete, parts.train)
        make_optimizer(model.transformer, complete)
        few = replace(parts, dev=parts.dev[:4], test=parts.test[:4])
        rehearse(Job(experiment.task, model, task, few, task.encode(few.dev), task.encode(few.test), complete, out))


def attempt(
    experiment: Experiment,
    facts: Mapping[str, Any],
    recipe: Recipe,
    out: Path,
    values: dict[str, Any],
    metric: str,
    watch: Watch | None,
) -> Trial:
    """One trial: a run, unless it is there already."""
    failed = out / FAILED
    if failed.is_file():
        check_done(out, recipe, facts)
        return Trial(out, values, {}, None, str(read_json(failed).get("error")))
    try:
        metrics = run_once(experiment, facts, recipe, out, watch)
    except NotFiniteError as error:
        told = str(error)  # the error itself holds the model, by its traceback
        wait()
        if world().first:
            write_json({"error": told}, failed)
        return Trial(out, values, {}, None, told)
    if world().first:
        shutil.rmtree(out / folder.CHECKPOINTS, ignore_errors=True)
    score = metrics["dev"].get(metric, math.nan)
    return Trial(out, values, metrics, None if math.isnan(score) else score)


def optuna() -> Any:
    """The library of that name. A DependencyError where it is not installed."""
    try:
        library = importlib.import_module("optuna")
    except ImportError:
        raise DependencyError("optuna is not installed; pip install 'minitransformer[search]'") from None
    library.logging.set_verbosity(library.logging.WARNING)
    return library


def propose(space: Space, past: Sequence[Trial], metric: str, seed: str) -> dict[str, Any] | None:
    """The values of the next trial, a function of those before it and of the seed: so a search can be interrupted.

    Where those were tried before, others at random; None where there are no others.
    """
    library, kinds = optuna(), distributions(space)
    number = random.Random(seed).getrandbits(31)
    study = library.create_study(
        direction="minimize" if metric in LOWER_IS_BETTER else "maximize",
        sampler=library.samplers.TPESampler(seed=number, n_startup_trials=5),
    )
    for trial in past:
        if trial.score is not None:
            done = library.trial.create_trial(params=trial.values, distributions=kinds, value=trial.score)
            study.add_trial(done)
    params = study.ask(kinds).params
    values = {
        name: each.rounded(params[name]) if isinstance(each, Range) else params[name] for name, each in space.items()
    }
    tried = [trial.values for trial in past]
    return next((new for new in (values, *drawn(space, len(past) + 1, number)) if new not in tried), None)


def distributions(space: Space) -> dict[str, Any]:
    """The space as optuna has it."""
    kinds = optuna().distributions
    found = {}
    for name, each in space.items():
        if not isinstance(each, Range):
            found[name] = kinds.CategoricalDistribution(each)
        elif each.whole:
            found[name] = kinds.IntDistribution(int(each.low), int(each.high), log=each.log)
        else:
            found[name] = kinds.FloatDistribution(each.low, each.high, log=each.log)
    return found


def ranked(out: Path, metric: str, trials: Sequence[Trial]) -> Search:
    """The trials, the best first; those without a score come last."""
    left, order = list(trials), list[Trial]()
    while (place := best_place([trial.score for trial in left], metric)) is not None:
        order.append(left.pop(place))
    return Search(out, metric, (*order, *left))


def as_data(found: Search) -> dict[str, Any]:
    """The result as JSON has it."""
    trials = [{**asdict(trial), "folder": trial.folder.name} for trial in found.trials]
    best = None if found.best is None else found.best.folder.name
    return {"folder": str(found.folder), "metric": found.metric, "best": best, "trials": trials}
