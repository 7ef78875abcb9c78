"""`minitransformer find-lr MODEL ROWS --task TASK`: which learning rate suits, by a test of a hundred steps."""

import json as json_format
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minitransformer.cli.recipe_options import with_recipe
from minitransformer.cli.row_options import Base, Columns, Json, Rows, TaskName
from minitransformer.finetune.recipe import Recipe

if TYPE_CHECKING:
    from minitransformer.finetune.many.find_rate import RateTest

EVERY = 7  # steps of the test between two lines of the table: half a power of ten


@with_recipe
def command(
    name: Base,
    rows: Rows,
    task: TaskName = "classify",
    columns: Columns = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Draw the curve in this new SVG file.")] = None,
    json: Json = False,
    *,
    recipe: Recipe,
) -> None:
    """Try learning rates from 1e-7 to 1, in a hundred steps, and suggest one. Nothing is trained in the end."""
    from minitransformer.finetune.many.find_rate import find_rate

    if out is not None:
        refuse_bad_place(out)
    found = find_rate(name, task, rows, columns=columns, recipe=recipe)
    if out is not None:
        from minitransformer.finetune.report.pictures import rate_curve

        out.write_text(rate_curve(found.rates, found.losses, found.suggested), encoding="utf-8")
    typer.echo(json_format.dumps(asdict(found)) if json else as_table(found))


def refuse_bad_place(out: Path) -> None:
    """Raise before the work rather than after it: the file must be new, and in a folder to write to."""
    folder = out.absolute().parent
    if out.exists() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"{out}: it exists, or its folder cannot be written to; give a new file")


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
