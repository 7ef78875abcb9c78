"""`minitransformer heads NAME [TEXT …]`: what each head does, where that has a name."""

from typing import Annotated

import typer

from minitransformer.cli.look_options import Json, Name, Out, check_out, opened, show


def command(
    name: Name,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to judge by; by default a few of ours.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="What a decoder behind an encoder is to write, for each text.")
    ] = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Find heads with a job, such as previous-token, separator and induction heads, and show how much they do it."""
    check_out(out, json=json)
    from minitransformer import lens

    show(lens.head_types(opened(name), texts or None, target=target or None), json=json, out=out)
