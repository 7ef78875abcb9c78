"""The same run with several seeds: how much of a score is luck of the head's first values and of the order of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from minitransformer.errors import ConfigError
from minitransformer.finetune import folder
from minitransformer.finetune.data import Source
from minitransformer.finetune.distributed import joined
from minitransformer.finetune.job import Scores
from minitransformer.finetune.many.once import Experiment, best_place, refuse_other_folder, run_once
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.report import source_name
from minitransformer.finetune.report.card import means, model_card, table
from minitransformer.finetune.run import Watch
from minitransformer.finetune.scores import metric_of
from minitransformer.finetune.start import check_recipe
from minitransformer.storage.files import write_json
from minitransformer.tasks import TASKS


@dataclass(frozen=True)
class Seeds:
    """What the runs gave, one for each seed. Their models are in their folders."""

    folder: Path
    metric: str  # by which the best is chosen, on the dev rows
    seeds: tuple[int, ...]
    runs: tuple[dict[str, Scores], ...]  # of each run the scores of "dev" and "test"
    best: int | None  # a seed; None without dev rows

    @property
    def best_folder(self) -> Path | None:
        """Where the best run's model is."""
        return None if self.best is None else self.folder / f"seed-{self.best}"

    def by_part(self) -> dict[str, list[Scores]]:
        """Of "dev" and "test" the scores of each run."""
        return {part: [run[part] for run in self.runs] for part in self.runs[0]}

    def summary(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Of each part and metric the mean of the runs, and their standard deviation (None of a single run)."""
        return {
            part: {metric: {"mean": mean, "std": deviation} for metric, mean, deviation in means(scores)}
            for part, scores in self.by_part().items()
        }


def run_seeds(
    name: str | PathLike[str],
    task: str,
    rows: Source,
    *,
    out: str | PathLike[str],
    seeds: int,
    dev: Source | float = 0.1,
    test: Source | float | None = None,
    columns: Mapping[str, str] | None = None,
    recipe: Recipe,
    watch: Watch | None = None,
) -> Seeds:
    """Fine-tune with so many seeds, the recipe's and those after it, in out/seed-0, out/seed-1 and so on.

    All split the rows in the same way, by the recipe's own seed. A run that is done is not repeated, and one that was
    interrupted goes on: call it again in the same way. Writes metrics.json and README.md, of all runs together.
    `watch` is called with each event of the loops, and with one called "run" before each run.
    """
    check_recipe(task, recipe)
    if seeds < 1:
        raise ConfigError(f"seeds: got {seeds}, expected 1 or more")
    out = Path(out)
    experiment = Experiment(
        name=name, task=task, rows=rows, dev=dev, test=test, columns=columns, split_seed=recipe.seed
    )
    with joined() as here:
        refuse_other_folder(out, "seed-*")
        facts = experiment.facts(experiment.parts())
        numbers = tuple(range(recipe.seed, recipe.seed + seeds))
        runs = []
        for i, seed in enumerate(numbers):
            if watch is not None and here.first:
                watch({"event": "run", "number": i + 1, "of": seeds, "name": f"seed-{seed}", "values": {}})
            runs.append(run_once(experiment, facts, replace(recipe, seed=seed), out / f"seed-{seed}", watch))
        metric = metric_of(recipe, TASKS[task])
        place = best_place([run.get("dev", {}).get(metric) for run in runs], metric)
        found = Seeds(out, metric, numbers, tuple(runs), None if place is None else numbers[place])
        if here.first:
            write(found)
    return found


def write(found: Seeds) -> None:
    """metrics.json and README.md of all runs together."""
    write_json(as_data(found), found.folder / folder.METRICS)
    shown = found.best_folder or found.folder / f"seed-{found.seeds[0]}"
    facts, recipe = folder.data_of(shown), folder.recipe_of(shown)
    card = model_card(
        name=str(shown),
        task=facts["task"],
        base_model=facts["name"],
        data=source_name(facts),
        rows=facts["rows"],
        sha256=facts["sha256"],
        recipe=asdict(recipe),
        results=found.by_part(),
        labels=facts["labels"],
        for_transformers=recipe.train != "adapter",
    )
    (found.folder / "README.md").write_text(f"{card}\n## Seeds\n\n{seeds_table(found)}\n", encoding="utf-8")


def as_data(found: Seeds) -> dict[str, Any]:
    """The result as JSON has it."""
    return {
        "folder": str(found.folder),
        "metric": found.metric,
        "best": None if found.best is None else f"seed-{found.best}",
        "metrics": found.summary(),
        "runs": {f"seed-{seed}": run for seed, run in zip(found.seeds, found.runs, strict=True)},
    }


def seeds_table(found: Seeds) -> str:
    """The metric of each seed, in Markdown, and which was the best."""
    parts = list(found.runs[0])
    scores = [
        (f"seed-{seed}", *(f"{run[part].get(found.metric, float('nan')):.4g}" for part in parts))
        for seed, run in zip(found.seeds, found.runs, strict=True)
    ]
    head = ("run", *(f"{part} {found.metric}" for part in parts))
    return f"{table(head, scores)}\n\n{told_best(found)}"


def told_best(found: Seeds) -> str:
    """Which seed was the best, in words."""
    if found.best is None:
        return "No seed is the best: there were no dev rows to tell by."
    return f"The best by dev {found.metric} is seed-{found.best}. The mean is what to report: the best flatters."


def as_lines(found: Seeds) -> list[str]:
    """Mean ± standard deviation of each metric, a column for each part."""
    parts: Sequence[str] = list(found.runs[0])
    cells = {
        (metric, part): f"{mean:.4g}" if deviation is None else f"{mean:.4g} ± {deviation:.2g}"
        for part, scores in found.by_part().items()
        for metric, mean, deviation in means(scores)
    }
    metrics = list(dict.fromkeys(metric for metric, _ in cells))
    width = max(map(len, metrics), default=0)
    head = f"{'':<{width}}  " + "  ".join(f"{part:<18}" for part in parts)
    body = [f"{m:<{width}}  " + "  ".join(f"{cells.get((m, part), ''):<18}" for part in parts) for m in metrics]
    return [line.rstrip() for line in (head, *body)]
