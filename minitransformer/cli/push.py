"""`minitransformer push RUN USER/NAME`: publish a model on the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    name: Annotated[Path, typer.Argument(help="The folder of a run, or of a saved model.")],
    repository: Annotated[str, typer.Argument(help="user/name; it is made if there is none.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository that only you see.")] = False,
    message: Annotated[str | None, typer.Option(help="The message of the commit.")] = None,
) -> None:
    """Publish a model, its card, scores and recipe; neither data nor checkpoints nor the log."""
    from minitransformer.storage.push import push

    typer.echo(push(name, repository, private=private, message=message))
