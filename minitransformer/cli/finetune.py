"""`minitransformer finetune MODEL ROWS --task TASK --out FOLDER`: train a model for a task on rows from files."""

import json as json_format
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minitransformer.cli.recipe_options import with_recipe
from minitransformer.cli.row_options import BASE, ROWS, Columns, Dev, Json, TaskName, Test
from minitransformer.finetune.recipe import Recipe

if TYPE_CHECKING:
    from minitransformer.finetune.job import Run
    from minitransformer.finetune.loggers import Watch


@with_recipe
def command(
    name: Annotated[str | None, typer.Argument(help=BASE)] = None,
    rows: Annotated[list[str] | None, typer.Argument(help=ROWS)] = None,
    task: TaskName = "classify",
    out: Annotated[Path | None, typer.Option(help="The new folder for the run and its model.")] = None,
    dev: Dev = "0.1",
    test: Test = None,
    columns: Columns = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder, and with its recipe.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Train so often, with the seed and those after it: mean and deviation.")
    ] = None,
    log_to: Annotated[str, typer.Option(help="Draw the run with: tensorboard, wandb, or both with a comma.")] = "",
    json: Json = False,
    *,
    recipe: Recipe,
) -> None:
    """Fine-tune a model. Ctrl-C finishes the step and saves it: --resume goes on, to the same bits."""
    import minitransformer
    from minitransformer.finetune.run import resume as go_on

    if log_to and seeds is not None:
        raise typer.BadParameter("--log-to goes with one run; leave out --seeds")
    if resume is not None:
        others = (name, out, seeds, test, columns)
        if any(each is not None for each in others) or (task, dev) != ("classify", 0.1) or recipe != Recipe():
            raise typer.BadParameter("--resume FOLDER goes alone: model, rows and recipe are those of the run")
        with watching(log_to, resume) as watch:
            run = go_on(resume, watch=watch)
    else:
        if name is None or not rows or out is None:
            raise typer.BadParameter("give a model, files of rows, and --out FOLDER; or --resume FOLDER")
        given: dict[str, Any] = {
            "rows": rows,
            "dev": dev,
            "test": test,
            "columns": columns,
        }
        if seeds is not None:
            train_seeds(name, task, given, out, seeds, recipe, json)
            return
        with watching(log_to, out) as watch:
            run = minitransformer.finetune(name, task, **given, out=out, recipe=recipe, watch=watch)
    typer.echo(json_format.dumps(figures(run)) if json else summary(run))


@contextmanager
def watching(log_to: str, folder: Path) -> "Iterator[Watch]":
    """What is called with each event: the progress bar, and the loggers that were asked for."""
    from minitransformer.cli.progress import progress_bar
    from minitransformer.finetune.loggers import loggers, together

    names = [name.strip() for name in log_to.split(",") if name.strip()]
    with progress_bar() as bar, loggers(names, folder) as log:
        yield together(bar, log)


def train_seeds(name: str, task: str, given: dict[str, Any], out: Path, seeds: int, recipe: Recipe, json: bool) -> None:
    """Train with several seeds and print mean ± standard deviation. The same command goes on where it was stopped."""
    from minitransformer.cli.progress import bar_for_each_run
    from minitransformer.finetune.many.seeds import as_data, as_lines, run_seeds, told_best

    with bar_for_each_run() as watch:
        found = run_seeds(name, task, **given, out=out, seeds=seeds, recipe=recipe, watch=watch)
    if json:
        typer.echo(json_format.dumps(as_data(found)))
        return
    typer.echo(f"{len(found.seeds)} seeds, mean ± standard deviation:")
    typer.echo("\n".join([*as_lines(found), told_best(found), f"saved in {found.folder}"]))


def summary(run: "Run") -> str:
    """The scores of a run, and what to do with it."""
    lines = []
    for part, scores in run.metrics.items():
        shown = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        lines.append(f"{run.rows[part]:,} {part} rows: {shown}")
    return "\n".join([*lines, f"saved in {run.folder}"])


def figures(run: "Run") -> dict[str, Any]:
    """The same as data."""
    return {"folder": str(run.folder), "rows": run.rows, "metrics": run.metrics}
