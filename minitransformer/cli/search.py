"""`minitransformer search MODEL ROWS --space "epochs=2,3 train=all,head" --out FOLDER`: which recipe is best."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minitransformer.cli.recipe_options import with_recipe
from minitransformer.cli.row_options import Base, Columns, Dev, Json, Rows, TaskName, Test
from minitransformer.finetune.many.space import PAPERS
from minitransformer.finetune.recipe import Recipe

if TYPE_CHECKING:
    from minitransformer.finetune.many.search import Search


@with_recipe
def command(
    name: Base,
    rows: Rows,
    out: Annotated[Path, typer.Option(help="The folder for all trials, new or that of this search.")],
    space: Annotated[
        str, typer.Option(help='Values, "epochs=2,3 train=head,lora", or ranges, "learning_rate=1e-6..1e-4:log".')
    ] = PAPERS,
    sampler: Annotated[str, typer.Option(help="grid: all of the space; random; tpe: where it was good (optuna).")] = (
        "grid"
    ),
    trials: Annotated[int | None, typer.Option(help="How many; by default all of a grid, else 20.")] = None,
    task: TaskName = "classify",
    dev: Dev = "0.1",
    test: Test = None,
    columns: Columns = None,
    json: Json = False,
    *,
    recipe: Recipe,
) -> None:
    """Search for the best recipe. Interrupted, the same command goes on; trials that are done are not repeated."""
    from minitransformer.cli.progress import bar_for_each_run
    from minitransformer.finetune.many.search import as_data, search

    with bar_for_each_run() as watch:
        found = search(
            name,
            task,
            rows,
            out=out,
            space=space,
            sampler=sampler,
            trials=trials,
            dev=dev,
            test=test,
            columns=columns,
            recipe=recipe,
            watch=watch,
        )
    typer.echo(json_format.dumps(as_data(found), default=str) if json else as_table(found))


def as_table(found: "Search") -> str:
    """All trials, the best first, and what to do with it."""
    names = list(found.trials[0].values)
    table = [["trial", f"dev {found.metric}", *names]]
    for trial in found.trials:
        score = "no score" if trial.score is None else f"{trial.score:.4f}"
        table.append([trial.folder.name, score, *(f"{trial.values[name]}" for name in names)])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in table]
    lines += [f"{trial.folder.name}: {trial.error}" for trial in found.trials if trial.error]
    if found.best is None:
        return "\n".join([*lines, "no trial has a score; try lower learning rates"])
    test = found.best.metrics.get("test")
    if test is None:
        lines.append("The best score of many flatters: judge it by rows of its own (--test, or evaluate).")
    else:
        lines.append("test rows, the best trial: " + ", ".join(f"{name} {value:.4g}" for name, value in test.items()))
    return "\n".join([*lines, f"The best model is {found.best.folder}; all trials are in {found.folder}/search.json"])
