"""The arguments and options of the commands that look inside, and what they do with a result: print it, or save it."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from minitransformer.lens import Result
    from minitransformer.lens.together import Page
    from minitransformer.pretrained import Pretrained

Name = Annotated[str, typer.Argument(help='A hub id, a folder, "package:NAME", or builtin:shakespeare.')]
Text = Annotated[str, typer.Argument(help="A text; for a model of images, the name of an image file.")]
Pair = Annotated[str | None, typer.Option(help="A second text, for a model that reads two.")]
Target = Annotated[
    str | None, typer.Option(help="What a decoder behind an encoder is to write; by default what it writes itself.")
]
Attention = Annotated[str | None, typer.Option(help="encoder, decoder or cross, where the model has several.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--out", help="Write a file instead: .html, .svg, .pdf, .png, .json, .csv or .txt."),
]


def opened(name: str) -> "Pretrained":
    """The model, evaluating."""
    from minitransformer.loading import load

    return load(name).eval()


def show(result: "Result | Page", *, json: bool, out: Path | None) -> None:
    """Print the result, or write it to a file and say where."""
    from minitransformer.lens.words import visible

    if out is not None:
        typer.echo(f"{result.save(out)}: {visible(result.title)}")
    elif json:
        typer.echo(json_format.dumps(result.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        typer.echo(str(result))


def check_out(out: Path | None, *, json: bool) -> None:
    """Refuse a file that could not be written, before a model is loaded."""
    from minitransformer.lens.saving import check_path

    if out is not None:
        if json:
            raise typer.BadParameter("--json prints; to write JSON to a file, give -o x.json alone")
        check_path(out)


def refuse(why: str, **given: object) -> None:
    """Refuse options that would have no effect, by their names."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise typer.BadParameter(f"--{name}: {why}")
