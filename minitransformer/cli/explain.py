"""`minitransformer explain NAME TEXT --layer 3 --head 7 --query sat`: one attention weight, with its real numbers."""

from typing import Annotated

import typer

from minitransformer.cli.look_options import Attention, Json, Name, Out, Pair, Target, Text, check_out, opened, show


def command(
    name: Name,
    text: Text,
    layer: Annotated[int, typer.Option(help="The layer, from 0.")],
    head: Annotated[int, typer.Option(help="The head, from 0.")],
    query: Annotated[str, typer.Option(help="The token that looks: its place, or the token itself.")],
    pair: Pair = None,
    target: Target = None,
    attention: Attention = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Show how one head came to look where it looks: formula, line of code, shape and numbers of each step."""
    check_out(out, json=json)
    from minitransformer import lens

    found = lens.explain(opened(name), text, layer, head, query, pair=pair, target=target, attention=attention)
    show(found, json=json, out=out)
