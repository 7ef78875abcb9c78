"""`minitransformer patch NAME --clean TEXT --corrupt TEXT`: which places carry what the model knows."""

from typing import Annotated

import typer

from minitransformer.cli.look_options import Attention, Json, Name, Out, Target, check_out, opened, show


def command(
    name: Name,
    clean: Annotated[str, typer.Option(help="The text that the model answers rightly.")],
    corrupt: Annotated[str, typer.Option(help="The same with something else in it, of as many tokens.")],
    at: Annotated[
        str, typer.Option(help="resid_pre, attn_out or mlp_out at each position; z, pattern, q, k or v of each head.")
    ] = "resid_pre",
    answer: Annotated[str | None, typer.Option(help="The right token or label; by default the model's own.")] = None,
    foil: Annotated[str | None, typer.Option(help="The wrong one, whose logit is subtracted.")] = None,
    position: Annotated[int | None, typer.Option(help="Where a language model answers; by default at the end.")] = None,
    attention: Attention = None,
    target: Target = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Put the clean run's numbers into the corrupted run, one place at a time, and show what that restores."""
    check_out(out, json=json)
    from minitransformer import lens

    found = lens.patch(
        opened(name),
        clean,
        corrupt,
        at=at,  # type: ignore[arg-type]
        answer=answer,
        foil=foil,
        position=position,
        attention=attention,
        target=target,
    )
    show(found, json=json, out=out)
