"""`minitransformer predict FOLDER INPUT …`: a model's answers to texts, images, or the rows of a file."""

import json as json_format
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from minitransformer.cli.row_options import Columns, Tuned
from minitransformer.errors import DataError, StorageError
from minitransformer.finetune.recipe import Recipe


def command(
    name: Tuned,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Texts or, for a model that reads images, image files; by default standard input's lines."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A file of rows, as finetune reads them; labels are not needed.")
    ] = None,
    columns: Columns = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts or images computed together.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Write the answers to this file, one JSON object a line.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Print the model's answer to each input: a label with its probability, entities, an answer, a translation."""
    from minitransformer.finetune.data import rows_of
    from minitransformer.finetune.folder import columns_of, refuse_unfinished
    from minitransformer.finetune.forward import to_own_device
    from minitransformer.loading import load

    if data is not None and inputs:
        raise typer.BadParameter("give texts or --data, not both")
    if data is None and not inputs and sys.stdin.isatty():
        raise typer.BadParameter("nothing to answer; give texts or image files, --data FILE, or pipe one a line")
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise StorageError(f"{out}: no place for a file; give one in a folder that is there")  # before the work
    if out is not None and data is not None and out.exists() and Path(data).exists() and out.samefile(data):
        raise typer.BadParameter(f"--out {out} would replace the rows of --data; give another file")
    refuse_unfinished(Path(name))
    model = load(name)
    to_own_device(model.transformer, Recipe())
    given: list[Any]
    if data is not None:
        given = list(rows_of(data, model.task_name, columns or columns_of(Path(name)), targets=False))
    else:
        if model.task_name != "image":
            refuse_files(inputs or [])
        given = [from_line(text) for text in inputs or lines_of_input()]
    answers = model.predict(given, batch_size=batch_size)
    if out is not None:
        out.write_text("".join(as_json(answer) + "\n" for answer in answers), encoding="utf-8")
        return
    for answer in answers:
        typer.echo(as_json(answer) if json else str(answer))


def refuse_files(inputs: list[str]) -> None:
    """Raise where a text is the name of a file: the model would answer about the name."""
    for text in inputs:
        if len(os.fsencode(text)) < 256 and Path(text).is_file():
            raise typer.BadParameter(f"{text} is a file; for the rows in it: --data {text}")


def lines_of_input() -> list[str]:
    """The lines of standard input that are not blank."""
    lines = []
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"standard input, line {number}: not UTF-8 at byte {error.start}") from None
        lines += [text] if text.strip() else []
    return lines


def as_json(answer: Any) -> str:
    """An answer as a JSON object on one line."""
    return json_format.dumps(asdict(answer), ensure_ascii=False)


def from_line(text: str) -> Any:
    """A text or, where it is a JSON object, a row of columns: {"question": ..., "context": ...}."""
    if text.startswith("{") and text.rstrip().endswith("}"):
        try:
            return json_format.loads(text)
        except ValueError:
            pass
    return text
