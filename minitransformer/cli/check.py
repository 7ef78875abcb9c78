"""`minitransformer check MODEL ROWS --task TASK`: what a run would read, stumble over and need, without training."""

import json as json_format
from typing import Annotated

import typer

from minitransformer.cli.finetune import TASKS, named_columns, share_or_file
from minitransformer.cli.recipe_options import with_recipe
from minitransformer.finetune.recipe import Recipe


@with_recipe
def command(
    name: Annotated[str, typer.Argument(help='The model to start from: a hub id, a folder, or "package:NAME".')],
    rows: Annotated[list[str], typer.Argument(help="Files of rows; two text files, line by line, for translate.")],
    task: Annotated[str, typer.Option(help=f"{TASKS}.")] = "classify",
    dev: Annotated[str, typer.Option(help="Rows to choose the best weights by: a share, a number, or a file.")] = "0.1",
    test: Annotated[str | None, typer.Option(help="Rows to judge those by at the end: likewise.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="What columns are called in the files: text=review,label=stars.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    *,
    recipe: Recipe,
) -> None:
    """Look at rows before training: truncation, labels, repeated rows, examples as the model gets them, memory, time.

    The options are those of finetune. Ends with 65 if something in the rows would stop a run.
    """
    from minitransformer.finetune.check.inspect import inspect_rows

    report = inspect_rows(
        name,
        task,
        rows[0] if len(rows) == 1 else rows,
        dev=share_or_file(dev),
        test=None if test is None else share_or_file(test),
        columns=named_columns(columns),
        recipe=recipe,
    )
    typer.echo(json_format.dumps(report.to_dict(), ensure_ascii=False) if json else str(report))
    if not report.usable:
        raise typer.Exit(65)
