"""`minitransformer lens NAME TEXT`: what the model would predict, were it to stop at each layer."""

from typing import Annotated

import typer

from minitransformer.cli.look_options import Json, Name, Out, Pair, Target, Text, check_out, opened, refuse, show


def command(
    name: Name,
    text: Text,
    pair: Pair = None,
    target: Target = None,
    top: Annotated[int | None, typer.Option(help="How many tokens at each place; by default 5.")] = None,
    answer: Annotated[
        str | None, typer.Option(help="Instead: what each part adds to this token's logit (pre-norm models).")
    ] = None,
    foil: Annotated[str | None, typer.Option(help="Subtract this token's logit.")] = None,
    by: Annotated[str | None, typer.Option(help="component (the default), layer or head.")] = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Read the stream through the head after each layer; with --answer, take a logit apart."""
    check_out(out, json=json)
    from minitransformer import lens

    if answer is None:
        refuse("takes a logit apart; say which token's, --answer TOKEN", foil=foil, by=by)
        kept = 5 if top is None else top
        show(lens.logit_lens(opened(name), text, pair, target=target, top=kept), json=json, out=out)
        return
    refuse("is for the lens; leave --answer out", top=top, pair=pair)
    found = lens.logit_attribution(opened(name), text, answer, foil, by=by or "component", target=target)  # type: ignore[arg-type]
    show(found, json=json, out=out)
