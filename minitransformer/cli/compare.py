"""`minitransformer compare RUN_A RUN_B`: two runs side by side, and whether one is better by luck; or two models."""

import json as json_format
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from minitransformer.cli.look_options import Json, Out, Pair, Target, check_out, opened, show
from minitransformer.cli.row_options import Columns

if TYPE_CHECKING:
    from minitransformer.finetune.many.compare import Comparison


def command(
    run_a: Annotated[str, typer.Argument(help="The folder of a run; to compare what is inside, any model.")],
    run_b: Annotated[str, typer.Argument(help="Another.")],
    text: Annotated[
        str | None, typer.Argument(help="A text: compare what is inside the two models when they read it.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Rows to judge both by; by default the dev rows, if both had the same.")
    ] = None,
    columns: Columns = None,
    pair: Pair = None,
    target: Target = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Compare two runs: recipes, scores, curves, and a paired bootstrap. With a text, two models: heads and weights."""
    if text is not None:
        if data is not None or columns is not None:
            raise typer.BadParameter("rows judge runs: give a text, or --data")
        compare_insides(run_a, run_b, text, pair, target, json=json, out=out)
        return
    if out is not None or pair is not None or target is not None:
        raise typer.BadParameter("--out, --pair and --target belong to a text; give one behind the two models")
    from minitransformer.finetune.many.compare import compare

    found = compare(run_a, run_b, data=data, columns=columns)
    if json:
        typer.echo(json_format.dumps({**asdict(found), "verdict": found.verdict()}, default=str))
    else:
        typer.echo(as_text(found))


def compare_insides(
    name_a: str, name_b: str, text: str, pair: str | None, target: str | None, *, json: bool, out: Path | None
) -> None:
    """How far two models' heads look apart, and how far their weights are."""
    check_out(out, json=json)
    from minitransformer import lens

    show(lens.compare(opened(name_a), opened(name_b), text, pair, target=target), json=json, out=out)


def as_text(found: "Comparison") -> str:
    """The comparison, to be read."""
    lines = [f"A  {found.folders[0]}", f"B  {found.folders[1]}", "", f"{'what differs':<22}  {'A':<18}  B"]
    lines += [f"{name:<22}  {shown(a):<18}  {shown(b)}" for name, (a, b) in found.differences.items()]
    if not found.differences:
        lines.append("(nothing)")
    for part in sorted({*found.metrics[0], *found.metrics[1]}):
        of_a, of_b = (scores.get(part, {}) for scores in found.metrics)
        lines += ["", f"{f'{part} scores of the run':<22}  {'A':<18}  B"]
        lines += [f"{name:<22}  {number(of_a.get(name)):<18}  {number(of_b.get(name))}" for name in {**of_a, **of_b}]
    lines += ["", *curves(found)]
    a, b = (scores.get(found.metric) for scores in found.scores)
    lines += ["", f"{found.metric} on {found.judged_by}, {found.rows:,}: A {number(a)}, B {number(b)}", found.verdict()]
    lines.append("This is the luck of the rows. Of the luck of the seed, finetune --seeds tells.")
    return "\n".join(lines)


def curves(found: "Comparison") -> list[str]:
    """The loss of the steps, and the metric and the loss of the evaluations, as bars on one scale for both runs."""
    from minitransformer.finetune.many.compare import sparkline

    lines = []
    for name in dict.fromkeys(["loss", "dev loss", f"dev {found.metric}"]):
        both = found.curves.get(name, ([], []))
        known = [x for values in both for x in values if math.isfinite(x)]
        for letter, values in zip("AB", both, strict=True):
            if known and values:
                bars = sparkline(values, min(known), max(known))
                lines.append(f"{name:<14}  {letter}  {bars}  first {number(values[0])}, last {number(values[-1])}")
    return lines


def shown(value: object) -> str:
    """A value of a recipe."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}…"


def number(value: float | None) -> str:
    """A score, or that there is none."""
    return "-" if value is None else f"{value:.4g}"
