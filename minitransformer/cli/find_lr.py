"""`minitransformer find-lr MODEL ROWS --task TASK`: which learning rate suits, by a test of a hundred steps."""

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minitransformer.cli.finetune import TASKS, named_columns
from minitransformer.cli.recipe_options import with_recipe
from minitransformer.finetune.recipe import Recipe

if TYPE_CHECKING:
    from minitransformer.finetune.many.find_rate import RateTest

EVERY = 7  # steps of the test between two lines of the table: half a power of ten


@with_recipe
def command(
    name: Annotated[str, typer.Argument(help='The model to start from: a hub id, a folder, or "package:NAME".')],
    rows: Annotated[list[str], typer.Argument(help="Files of rows; two text files, line by line, for translate.")],
    task: Annotated[str, typer.Option(help=f"{TASKS}.")] = "classify",
    columns: Annotated[
        str | None, typer.Option(help="What columns are called in the files: text=review,label=stars.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Draw the curve in this new SVG file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    *,
    recipe: Recipe,
) -> None:
    """Try learning rates from 1e-7 to 1, in a hundred steps, and suggest one. Nothing is trained in the end."""
    from minitransformer.finetune.many.find_rate import find_rate

    if out is not None and (out.exists() or not out.absolute().parent.is_dir()):
        raise typer.BadParameter(f"{out}: it exists, or its folder does not; give a new file")
    found = find_rate(name, task, rows[0] if len(rows) == 1 else rows, columns=named_columns(columns), recipe=recipe)
    if out is not None:
        from minitransformer.finetune.report.pictures import rate_curve

        out.write_text(rate_curve(found.rates, found.losses, found.suggested), encoding="utf-8")
    typer.echo(json_format.dumps(asdict(found)) if json else as_table(found))


def as_table(found: "RateTest") -> str:
    """The smoothed loss at some of the rates, and what follows."""
    lines = ["   rate     loss"]
    highest = max(found.losses)
    for i in range(0, len(found.rates), EVERY):
        bar = "█" * round(30 * found.losses[i] / highest)
        lines.append(f"{found.rates[i]:.1e}  {found.losses[i]:7.4f}  {bar}")
    if found.ended_early:
        lines.append(f"ended at {found.rates[-1]:.1e}: the loss had grown to four times its lowest, or beyond numbers")
    if found.suggested is None:
        return "\n".join([*lines, "The loss never fell: no rate to suggest. Are these the right rows?"])
    from minitransformer.finetune.many.find_rate import lowest_place

    lowest = lowest_place(found.losses)
    told = f"The loss is lowest at {found.rates[lowest]:.1e}; a tenth of that is safe:"
    return "\n".join([*lines, f"{told} --learning-rate {found.suggested:.1e}"])
