"""`minitransformer finetune NAME ROWS --out FOLDER`: a text classifier from a file of texts and labels."""

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from minitransformer.cli.progress import progress_bar
from minitransformer.finetune.recipe import Recipe

DEFAULT = Recipe()


def command(
    name: Annotated[str, typer.Argument(help='The model to start from: a hub id, a folder, or "package:NAME".')],
    rows: Annotated[Path, typer.Argument(help="csv, tsv or jsonl with a column of texts and one of labels.")],
    out: Annotated[Path, typer.Option(help="The new folder for the fine-tuned model.")],
    text: Annotated[str, typer.Option(help="The column of texts.")] = "text",
    label: Annotated[str, typer.Option(help="The column of labels.")] = "label",
    held_out: Annotated[str, typer.Option(help="Rows to judge by: a share of the rows, or a file.")] = "0.1",
    epochs: Annotated[int, typer.Option(help="How often each row is seen.")] = DEFAULT.epochs,
    batch_size: Annotated[int, typer.Option(help="Rows in a step.")] = DEFAULT.batch_size,
    learning_rate: Annotated[float, typer.Option(help="The highest rate, after the warm-up.")] = DEFAULT.learning_rate,
    max_length: Annotated[int | None, typer.Option(help="Tokens kept of each text.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same run.")] = DEFAULT.seed,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fine-tune a text classifier and write it to a folder. Ctrl-C leaves no folder behind."""
    import minitransformer

    recipe = Recipe(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, max_length=max_length, seed=seed)
    with progress_bar() as watch:
        run = minitransformer.finetune(
            name,
            "classify",
            rows,
            out=out,
            held_out=_share(held_out),
            text=text,
            label=label,
            recipe=recipe,
            watch=watch,
        )
    if json:
        figures = {"before": run.before, "accuracy": run.accuracy, "train_rows": run.train_rows}
        typer.echo(json_format.dumps({"folder": str(out), **figures, "held_out_rows": run.held_out_rows}))
        return
    typer.echo(f"accuracy on {run.held_out_rows:,} held-out rows: {run.before:.3f} before, {run.accuracy:.3f} after")
    typer.echo(f"saved in {out}; try: minitransformer predict {out} 'some text'")


def _share(held_out: str) -> float | str:
    """A share such as 0.1, or the name of a file."""
    try:
        return float(held_out)
    except ValueError:
        return held_out
