"""`minitransformer ablate NAME TEXT … | --data FILE`: what the model loses when a head is muted."""

from typing import Annotated, Any

import typer

from minitransformer.cli.look_options import Attention, Json, Name, Out, check_out, opened, refuse, show
from minitransformer.cli.row_options import Columns


def command(
    name: Name,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to judge by.")] = None,
    data: Annotated[str | None, typer.Option(help="Or a file of rows with labels, as finetune reads them.")] = None,
    columns: Columns = None,
    by: Annotated[str, typer.Option(help="head; or attention, mlp: those of a whole layer.")] = "head",
    mode: Annotated[str, typer.Option(help="zero, mean or uniform.")] = "zero",
    gradient: Annotated[
        bool, typer.Option("--gradient", help="Estimate all at once, from the gradient of a mask.")
    ] = False,
    attention: Attention = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Mute each head alone, and show how much the loss rises."""
    check_out(out, json=json)
    if bool(texts) == (data is not None):
        raise typer.BadParameter("give texts, or --data FILE")
    if data is None:
        refuse("says what the columns of --data FILE are called", columns=columns)
    if gradient and (by, mode) != ("head", "zero"):
        raise typer.BadParameter("--gradient estimates what muting a head does; leave out --by and --mode")
    from minitransformer import lens

    model = opened(name)
    given: list[Any] = list(texts or [])
    if data is not None:
        from minitransformer.finetune.data import rows_of

        given = list(rows_of(data, model.task_name, columns, targets=True))
    if gradient:
        found = lens.head_importance(model, given, attention=attention)
    else:
        found = lens.ablate(model, given, unit=by, mode=mode, attention=attention)  # type: ignore[arg-type]
    show(found, json=json, out=out)
