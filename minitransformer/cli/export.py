"""`minitransformer export MODEL --out FILE`: a model for other programs, checked by running what was written."""

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from minitransformer.cli.row_options import Json


def command(
    name: Annotated[str, typer.Argument(help="The model: the folder of a run, a hub id, or package:NAME.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write; for safetensors, the folder.")],
    to: Annotated[str, typer.Option(help="onnx, torch (a torch.export program), or safetensors.")] = "onnx",
    json: Json = False,
) -> None:
    """Write a model for other programs. It is always run and compared before it appears under its name."""
    from minitransformer.finetune.ship.export import export

    found = export(name, out, to=to)
    if json:
        typer.echo(json_format.dumps(asdict(found), default=str))
        return
    typer.echo(f"{', '.join(found.inputs)} -> {', '.join(found.outputs)}")
    typer.echo(f"largest difference from the model, over batches of several shapes: {found.max_difference:.2g}")
    typer.echo(f"saved in {found.path}")
