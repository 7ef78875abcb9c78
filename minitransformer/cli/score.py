"""`minitransformer score NAME [FILE]`: the perplexity of a text."""

import json as json_format
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from minitransformer.cli.generate import piped


def command(
    name: Annotated[str, typer.Argument(help="A decoder alone: a folder, a hub id, or builtin:shakespeare.")],
    file: Annotated[Path | None, typer.Argument(help="A text file; by default standard input.")] = None,
    window: Annotated[int | None, typer.Option(help="Tokens read at once; by default all the model takes.")] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens from window to window; by default half of one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print how well a model predicts a text."""
    from minitransformer.loading import load
    from minitransformer.text.files import read_text

    if file is None and sys.stdin.isatty():
        raise typer.BadParameter("nothing to score; give a file, or pipe a text")
    text = piped() if file is None else read_text(file)
    found = load(name).perplexity(text, window=window, stride=stride)
    if json:
        typer.echo(json_format.dumps(asdict(found)))
    else:
        typer.echo(f"perplexity {found.perplexity:.4g}, {found.loss:.4f} nats a token over {found.tokens} tokens")
        typer.echo(f"read in windows of {found.window} tokens, {found.stride} apart")
