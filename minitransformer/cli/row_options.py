"""The arguments and options that name a model, rows and a task: the same for all commands that take rows."""

from typing import Annotated, Any

import typer

TASKS = "classify, regress, multilabel, tag, relation, span, choice, lm, mlm, translate, summarize, dialogue, image"


def share_or_file(text: str) -> float | str:
    """A share such as 0.1, a number of rows such as 200, or the name of a file."""
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text


def named_columns(text: str) -> dict[str, str]:
    """text=review,label=stars as a dict."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(ours.strip() and theirs.strip() for ours, _, theirs in pairs):
        raise typer.BadParameter(f"got {text!r}, expected our name=the file's name, such as text=review,label=stars")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


BASE = 'The model to start from: a hub id, a folder, or "package:NAME".'
ROWS = "Files of rows; two text files, line by line, for translate."
Base = Annotated[str, typer.Argument(help=BASE)]
Tuned = Annotated[str, typer.Argument(help="A fine-tuned model: a folder or a hub id.")]
Rows = Annotated[list[str], typer.Argument(help=ROWS)]
TaskName = Annotated[str, typer.Option(help=f"{TASKS}.")]
Dev = Annotated[
    Any,
    typer.Option(
        help="Rows to choose the best weights by: a share, a number, or a file.", parser=share_or_file, metavar="ROWS"
    ),
]
Test = Annotated[
    Any, typer.Option(help="Rows to judge those by at the end: likewise.", parser=share_or_file, metavar="ROWS")
]
Columns = Annotated[
    Any,
    typer.Option(
        help="What columns are called in the files: text=review,label=stars.", parser=named_columns, metavar="TEXT"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
