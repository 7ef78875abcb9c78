"""`minitransformer attention NAME TEXT`: where every head looks."""

from typing import Annotated

import typer

from minitransformer.cli.look_options import Json, Name, Out, Pair, Target, Text, check_out, opened, show


def command(
    name: Name,
    text: Text,
    pair: Pair = None,
    target: Target = None,
    layer: Annotated[int, typer.Option(help="On a page or in a figure: of this layer.")] = 0,
    head: Annotated[int | None, typer.Option(help="Of this head; on a page, explained step by step.")] = None,
    query: Annotated[str | None, typer.Option(help="And for this token: its place, or the token.")] = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Show the attention of a text: each head's strongest weight as text; all of it on a page, -o page.html."""
    check_out(out)
    from minitransformer import lens
    from minitransformer.cli.explain import place
    from minitransformer.lens.figures import drawn
    from minitransformer.lens.saving import FIGURES, write

    model = opened(name)
    if out is not None and out.suffix.lower() == ".html":
        page = lens.look(model, text, pair, target=target, layer=layer, head=head or 0, query=place(query))
        show(page, json=json, out=out)
        return
    found = lens.attention(model, text, pair, target=target)
    if out is not None and out.suffix.lower() in FIGURES:
        write(out, drawn(found.figure(layer=layer, head=head), out.suffix.lower()[1:]))
        typer.echo(f"{out}: {found.title}")
        return
    show(found, json=json, out=out)
