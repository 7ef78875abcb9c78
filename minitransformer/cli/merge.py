"""`minitransformer merge RUN/adapter --out FOLDER`: LoRA put into the weights, a checkpoint without an adapter."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    name: Annotated[str, typer.Argument(help="A folder with LoRA, as minitransformer or peft writes it.")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
) -> None:
    """Merge LoRA into the weights. The logits before and after are compared; nothing is written if they differ."""
    from minitransformer.finetune.ship.merge import merge

    difference = merge(name, out)
    typer.echo(f"largest difference of the logits, before and after: {difference:.2g}")
    typer.echo(f"saved in {out}")
