"""`minitransformer why NAME TEXT`: which tokens an answer rests on."""

from typing import Annotated

import typer

from minitransformer.cli.look_options import Json, Name, Out, Pair, Target, Text, check_out, opened, show


def command(
    name: Name,
    text: Text,
    pair: Pair = None,
    target: Target = None,
    answer: Annotated[str | None, typer.Option(help="A label or a token; by default the model's own answer.")] = None,
    position: Annotated[int | None, typer.Option(help="Of a language model: the token at this place.")] = None,
    method: Annotated[
        str, typer.Option(help="integrated_gradients, gradient_x_input or occlusion.")
    ] = "integrated_gradients",
    steps: Annotated[int, typer.Option(help="Of the integral.")] = 50,
    baseline: Annotated[str | None, typer.Option(help="What stands for no token: pad, mask, unk or zero.")] = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Show how much each token matters for a logit; of integrated gradients, how far they are from adding up to it."""
    check_out(out, json=json)
    from minitransformer import lens

    found = lens.saliency(
        opened(name),
        text,
        pair,
        answer=answer,
        position=position,
        method=method,  # type: ignore[arg-type]
        steps=steps,
        baseline=baseline,
        target=target,
    )
    show(found, json=json, out=out)
