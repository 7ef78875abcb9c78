"""What a run leaves for people beside its model: a card, the curve of its loss, and where it errs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minitransformer.finetune.evaluate import confusion_of
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.report.card import model_card
from minitransformer.finetune.report.pictures import confusion_matrix_svg, loss_curve
from minitransformer.finetune.scores import metric_of
from minitransformer.tasks.task import Row, Task


def write_report(
    folder: Path,
    task: Task,
    recipe: Recipe,
    facts: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Mapping[str, float]],
    answered: tuple[Sequence[Row], Sequence[Any]],
    name: str,
) -> None:
    """Write README.md, curves.svg and, where answers are labels, confusion.svg. `answered`: rows, and their answers."""
    steps = [event for event in history if event["event"] == "step"]
    evaluations = [event for event in history if event["event"] == "evaluation"]
    pictures = {"curves.svg": loss_curve(steps, evaluations, metric_of(recipe, task))}
    matrix = confusion_of(task, *answered)
    if matrix is not None:
        pictures["confusion.svg"] = confusion_matrix_svg(*matrix)
    for file, picture in pictures.items():
        (folder / file).write_text(picture, encoding="utf-8")
    card = model_card(
        name=name,
        task=facts["task"],
        base_model=facts["name"],
        data=source_name(facts),
        rows=facts["rows"],
        sha256=facts["sha256"],
        recipe=asdict(recipe),
        results={part: [dict(scores)] for part, scores in metrics.items()},
        labels=facts["labels"],
        for_transformers=recipe.train != "adapter",
        pictures=list(pictures),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def source_name(facts: Mapping[str, Any]) -> str:
    """What the rows are called: their file's name, without the folders of this machine."""
    rows = (facts.get("given") or {}).get("rows")
    names = [rows] if isinstance(rows, str) else rows or ["rows given in memory"]
    return ", ".join(Path(name).name for name in names)
