"""`minitransformer check MODEL ROWS --task TASK`: what a run would read, stumble over and need, without training."""

import json as json_format

import typer

from minitransformer.cli.recipe_options import with_recipe
from minitransformer.cli.row_options import Base, Columns, Dev, Json, Rows, TaskName, Test
from minitransformer.finetune.recipe import Recipe


@with_recipe
def command(
    name: Base,
    rows: Rows,
    task: TaskName = "classify",
    dev: Dev = "0.1",
    test: Test = None,
    columns: Columns = None,
    json: Json = False,
    *,
    recipe: Recipe,
) -> None:
    """Look at rows before training: truncation, labels, repeated rows, examples as the model gets them, memory, time.

    The options are those of finetune. Ends with 65 if something in the rows would stop a run.
    """
    from minitransformer.finetune.check.inspect import inspect_rows

    report = inspect_rows(name, task, rows, dev=dev, test=test, columns=columns, recipe=recipe)
    typer.echo(json_format.dumps(report.to_dict(), ensure_ascii=False) if json else str(report))
    if not report.usable:
        raise typer.Exit(65)
