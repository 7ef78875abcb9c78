"""`minitransformer attention NAME TEXT`: where every head looks."""

from typing import Annotated

import typer

from minitransformer.cli.look_options import Json, Name, Out, Pair, Target, Text, check_out, opened, refuse, show


def command(
    name: Name,
    text: Text,
    pair: Pair = None,
    target: Target = None,
    layer: Annotated[int | None, typer.Option(help="On a page or in a figure: of this layer, from 0.")] = None,
    head: Annotated[int | None, typer.Option(help="Of this head; on a page, explained step by step.")] = None,
    query: Annotated[str | None, typer.Option(help="On a page: for this token, its place or the token.")] = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Show the attention of a text: each head's strongest weight as text; all of it on a page, -o page.html."""
    check_out(out, json=json)
    from minitransformer import lens
    from minitransformer.lens.figures import drawn
    from minitransformer.lens.saving import FIGURES, write

    suffix = "" if out is None else out.suffix.lower()
    if suffix != ".html":
        refuse("is for a page, -o page.html", query=query)
    if suffix not in (".html", *FIGURES):
        refuse("is for a page or a figure: -o page.html, -o figure.svg", layer=layer, head=head)
    model = opened(name)
    if suffix == ".html":
        page = lens.look(model, text, pair, target=target, layer=layer or 0, head=head or 0, query=query)
        show(page, json=json, out=out)
        return
    found = lens.attention(model, text, pair, target=target)
    if out is not None and suffix in FIGURES:
        write(out, drawn(found.figure(layer=layer, head=head), suffix[1:]))
        typer.echo(f"{out}: {found.title}")
        return
    show(found, json=json, out=out)
