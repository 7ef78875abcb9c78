"""`minitransformer lens NAME TEXT`: what the model would predict, were it to stop at each layer."""

from typing import Annotated

import typer

from minitransformer.cli.look_options import Json, Name, Out, Pair, Target, Text, check_out, opened, show


def command(
    name: Name,
    text: Text,
    pair: Pair = None,
    target: Target = None,
    top: Annotated[int, typer.Option(help="How many tokens at each place.")] = 5,
    answer: Annotated[
        str | None, typer.Option(help="Instead: what each part adds to this token's logit (pre-norm models).")
    ] = None,
    foil: Annotated[str | None, typer.Option(help="And takes from this one's.")] = None,
    by: Annotated[str, typer.Option(help="component, layer or head.")] = "component",
    json: Json = False,
    out: Out = None,
) -> None:
    """Read the stream through the head after each layer; with --answer, take a logit apart."""
    check_out(out)
    from minitransformer import lens

    model = opened(name)
    if answer is None:
        show(lens.logit_lens(model, text, pair, target=target, top=top), json=json, out=out)
    else:
        found = lens.logit_attribution(model, text, answer, foil, by=by, target=target)  # type: ignore[arg-type]
        show(found, json=json, out=out)
