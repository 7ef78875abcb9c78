"""`minitransformer shapes NAME [TEXT]`: every part of a model, its shapes, parameters and cost."""

from typing import Annotated

import typer

from minitransformer.cli.look_options import Json, Name, Out, Pair, Target, check_out, opened, show


def command(
    name: Name,
    text: Annotated[str | None, typer.Argument(help="A text, whose sizes are shown; or an image file.")] = None,
    pair: Pair = None,
    target: Target = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Show what happens to the shapes from part to part, with parameters, multiplications and memory."""
    check_out(out, json=json)
    from minitransformer import lens

    show(lens.shapes(opened(name), text, pair, target=target), json=json, out=out)
