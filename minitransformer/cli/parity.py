"""`minitransformer parity NAME`: prove that the numbers are transformers'."""

import json as json_format
from typing import Annotated

import typer


def command(
    name: Annotated[str, typer.Argument(help='A hub id, a folder, or "package:NAME".')],
    texts: Annotated[list[str] | None, typer.Argument(help="What to run; by default a few built-in texts.")] = None,
    head: Annotated[str | None, typer.Option(help="Load it with this head, not the one config.json names.")] = None,
    reference: Annotated[str | None, typer.Option(help="What transformers reads, if not the same.")] = None,
    double: Annotated[bool, typer.Option("--double", help="Run both sides as a whole in float64, too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare a checkpoint with transformers, layer by layer. Exit code 1 if any number is another."""
    from minitransformer import parity

    report = parity(name, texts or None, head=head, reference=reference, double=double)
    typer.echo(json_format.dumps(report.to_dict(), indent=2, allow_nan=False) if json else str(report))
    if not report.equal:
        raise typer.Exit(1)
