"""`minitransformer predict FOLDER INPUT …`: labels for texts or images."""

import json as json_format
import sys
from dataclasses import asdict
from typing import Annotated

import typer


def command(
    name: Annotated[str, typer.Argument(help="A fine-tuned model: a folder or a hub id.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Texts or, for a model that reads images, image files; by default standard input's lines."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts or images computed together.")] = 32,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print the most probable label of each text or image, with its probability."""
    from minitransformer.pretrained import load

    if not inputs and sys.stdin.isatty():
        raise typer.BadParameter("nothing to label; give texts or image files, or pipe one a line")
    given = list(inputs) if inputs else [line.rstrip("\n") for line in sys.stdin]
    for prediction in load(name).predict(given, batch_size=batch_size):
        if json:
            typer.echo(json_format.dumps(asdict(prediction), ensure_ascii=False))
        else:
            typer.echo(f"{prediction.label:<12} {prediction.score:6.1%}  {prediction.text}")
