"""`minitransformer evaluate FOLDER --data FILE`: scores, the confusion matrix, and the worst answers."""

import json as json_format
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from minitransformer.cli.row_options import Columns, Json, Tuned

if TYPE_CHECKING:
    from minitransformer.finetune.evaluate import Evaluation


def command(
    name: Tuned,
    data: Annotated[list[str], typer.Option(help="A file of rows with labels; twice for parallel text.")],
    task: Annotated[str | None, typer.Option(help="By default that of the run, or of the model's head.")] = None,
    columns: Columns = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst answers to show.")] = 10,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows computed together.")] = None,
    json: Json = False,
) -> None:
    """Judge a model by rows with labels."""
    import minitransformer

    found = minitransformer.evaluate(name, data, task, columns=columns, batch_size=batch_size)
    typer.echo(
        json_format.dumps(as_data(found, worst), ensure_ascii=False, default=shown) if json else as_report(found, worst)
    )


def as_data(found: "Evaluation", worst: int) -> dict[str, Any]:
    """The result as JSON has it."""
    matrix = found.confusion()
    return {
        "rows": len(found.rows),
        "metrics": found.metrics,
        "per_label": found.per_label(),
        "confusion": None if matrix is None else {"labels": matrix[1], "counts": matrix[0]},
        "worst": [{"where": row.where, "row": row, "answer": asdict(answer)} for row, answer in found.worst(worst)],
    }


def shown(value: Any) -> str:
    """What JSON cannot hold, an image in memory: what it is."""
    return f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__


def as_report(found: "Evaluation", worst: int) -> str:
    """The result as text."""
    width = max(map(len, found.metrics))
    lines = [f"{len(found.rows):,} rows", *(f"{name:<{width}}  {value:.4f}" for name, value in found.metrics.items())]
    lines += [found.signature()] if found.signature() else []
    lines += by_label(found.per_label())
    matrix = found.confusion()
    if matrix is not None:
        lines += ["", "right (down) taken for (across)", *table(*matrix)]
    answers = found.worst(worst)
    if answers:
        lines += ["", f"the worst {len(answers)}:"]
        lines += [f"  {row.where}: {target(row)}{answer}" for row, answer in answers]
    return "\n".join(lines)


def by_label(scores: dict[str, dict[str, float]]) -> list[str]:
    """The scores of each class or type, and in the last column how many there are; the 20 most frequent ones."""
    if not scores:
        return []
    names, width = list(next(iter(scores.values()))), max(len(label[:30]) for label in scores)
    lines = ["", " " * width + "".join(f"  {name:>9}" for name in names)]
    frequent = sorted(scores.items(), key=lambda pair: -pair[1][names[-1]])
    for label, values in frequent[:20]:
        *shares, count = values.values()
        lines.append(f"{label[:30]:<{width}}" + "".join(f"  {x:9.4f}" for x in shares) + f"  {count:9,.0f}")
    return [*lines, f"… and {len(scores) - 20} rarer ones"] if len(scores) > 20 else lines


def table(counts: list[list[int]], labels: tuple[str, ...]) -> list[str]:
    """A confusion matrix as lines; of more than 20 labels, only the pairs that were most often confused."""
    if len(labels) > 20:
        pairs = [(counts[i][j], labels[i], labels[j]) for i in range(len(labels)) for j in range(len(labels)) if i != j]
        return [f"  {count:5}  {right} taken for {found}" for count, right, found in sorted(pairs, reverse=True)[:20]]
    short = [label[:12] for label in labels]
    width = max(6, *map(len, short))
    lines = [" " * (width + 2) + "  ".join(f"{label:>{width}}" for label in short)]
    for label, row in zip(short, counts, strict=True):
        lines.append(f"{label:<{width}}  " + "  ".join(f"{count:>{width}}" for count in row))
    return lines


def target(row: dict[str, Any]) -> str:
    """What would have been right, where it is short."""
    right = row.get("label", row.get("target", ""))
    return f"{str(right)[:80]} | " if str(right) else ""
