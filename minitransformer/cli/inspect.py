"""`minitransformer inspect NAME`: what a checkpoint is, before anything is done with it."""

import json as json_format
import re
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from minitransformer.checkpoint import Plan
    from minitransformer.pretrained import Pretrained


def command(
    name: Annotated[str, typer.Argument(help='A hub id, a folder, or "package:NAME".')],
    head: Annotated[str | None, typer.Option(help="Load it with this head, not the one config.json names.")] = None,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit on the hub.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with every line of the plan.")] = False,
) -> None:
    """Show a checkpoint: config, parameters part by part, which tensor is which, what is unused and why."""
    from minitransformer.checkpoint import make_plan
    from minitransformer.loading import load

    model = load(name, head=head, revision=revision, check_finite=False)
    plan = make_plan(model.family, model.transformer, prefix=model.report.prefix)
    if json:
        typer.echo(json_format.dumps(_as_data(model, plan), indent=2))
    else:
        _show(model, plan)


def parameters(model: "Pretrained") -> dict[str, int]:
    """How many parameters each part has."""
    counts: Counter[str] = Counter()
    for name, weight in model.named_parameters():
        counts[_part(name)] += weight.numel()
    return dict(counts)


def _part(name: str) -> str:
    """embed.tokens.weight -> embed.tokens; encoder.layers.3.ffn.up.bias -> encoder.layers.ffn."""
    words = [word for word in name.split(".") if not word.isdigit()]
    return ".".join(words[:3] if "layers" in words else words[:2] if words[0] in ("embed", "head") else words[:-1])


def _as_data(model: "Pretrained", plan: "Plan") -> dict[str, Any]:
    return {
        "config": asdict(model.transformer.config),
        "parameters": parameters(model),
        "plan": [asdict(entry) for entry in plan.entries],
        "report": model.report.to_dict(),
    }


def _show(model: "Pretrained", plan: "Plan") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(str(model.report), markup=False, highlight=False, soft_wrap=True)
    config = model.transformer.config
    console.print()
    for part in ("embed", "encoder", "decoder", "head"):
        if getattr(config, part) is not None:
            fields = ", ".join(f"{field} {value}" for field, value in asdict(getattr(config, part)).items())
            console.print(f"{part}: {fields}", markup=False, highlight=False)

    counts = parameters(model)
    table = Table("part", "parameters", "share", title="Parameters")
    for part, count in counts.items():
        table.add_row(part, f"{count:,}", f"{count / sum(counts.values()):.1%}")
    table.add_section()
    table.add_row("all", f"{sum(counts.values()):,}", "")
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)

    table = Table(title="Plan ({i}: each layer)")
    for title in ("in the file", "here", "shapes in the file", "times"):
        table.add_column(title, overflow="fold")
    for (file, ours), shapes in _lines(plan).items():
        table.add_row(file, ours, ", ".join(dict.fromkeys(shapes)), str(len(shapes)))
    console.print(table)


def _lines(plan: "Plan") -> dict[tuple[str, str], list[str]]:
    """The plan with equal layers, and a weight and its bias, in one line: names in the file and here -> shapes."""
    lines: dict[tuple[str, str], list[str]] = {}
    for entry in plan.entries:
        file, ours = _folded(entry.file), ", ".join(map(_folded, entry.ours))
        flipped = " transposed" if entry.transpose and len(entry.shape) == 2 else ""
        lines.setdefault((file, ours), []).append("×".join(map(str, entry.shape)) + flipped)
    return lines


def _folded(name: str) -> str:
    """encoder.layer.3.output.dense.bias -> encoder.layer.{i}.output.dense."""
    name = re.sub(r"(^|\.)\d+\.", r"\1{i}.", name)
    return re.sub(r"\.(weight|bias)$", "", name)
