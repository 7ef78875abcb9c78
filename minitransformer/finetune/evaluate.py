"""How good a model is on rows of a file: its scores, where it errs, and its worst answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from minitransformer.errors import DataError
from minitransformer.finetune.data import Source, rows_of
from minitransformer.finetune.distributed import World
from minitransformer.finetune.folder import DATA, columns_of, data_of, recipe_of, refuse_unfinished
from minitransformer.finetune.forward import to_own_device
from minitransformer.finetune.job import judge
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.start import make_task
from minitransformer.loading import load
from minitransformer.metrics import (
    LOWER_IS_BETTER,
    bleu_signature,
    confusion_matrix,
    goodness,
    per_class,
    per_label,
    per_type,
)
from minitransformer.pretrained import Pretrained
from minitransformer.tasks import Prediction
from minitransformer.tasks.multilabel import Multilabel, names_of
from minitransformer.tasks.tag import Tag
from minitransformer.tasks.task import Row, Task

PERFECT = {"chrf": 100.0}  # the best value of a metric, where that is not 1


@dataclass(frozen=True)
class Evaluation:
    """A model's answers to some rows, and how good they are."""

    task: Task
    rows: list[Row]
    answers: list[Any]
    metrics: dict[str, float]

    def per_row(self) -> list[float]:
        """How good each answer is, by the score that the task has for a single row; higher is better."""
        metric = self.task.kind.row_metric
        pairs = zip(self.answers, self.rows, strict=True)
        return [goodness(metric, self.task.score([answer], [row])[metric]) for answer, row in pairs]

    def worst(self, count: int) -> list[tuple[Row, Any]]:
        """The rows with the lowest scores, and the answers; of those that are alike, the surest first."""
        if not count:
            return []
        values, sure = self.per_row(), [getattr(answer, "score", 0.0) for answer in self.answers]
        places = sorted(range(len(values)), key=lambda place: (values[place], -sure[place]))
        perfect = 0.0 if self.task.kind.row_metric in LOWER_IS_BETTER else PERFECT.get(self.task.kind.row_metric, 1.0)
        return [(self.rows[place], self.answers[place]) for place in places[:count] if values[place] < perfect]

    def per_label(self) -> dict[str, dict[str, float]]:
        """Precision, recall and F1 of each class or type of entity, and how many there are; empty where none are."""
        if not self.answers:
            return {}
        if isinstance(self.task, Tag) and self.task.marks_entities:
            return per_type([answer.tags for answer in self.answers], [row["tags"] for row in self.rows])
        labels = getattr(self.task, "labels", ())
        if isinstance(self.answers[0], Prediction):
            return per_class([a.label for a in self.answers], [row.name("label") for row in self.rows], labels)
        if isinstance(self.task, Multilabel):
            return per_label([answer.labels for answer in self.answers], [names_of(row) for row in self.rows], labels)
        return {}

    def signature(self) -> str:
        """How sacrebleu computed BLEU, where it did: to be quoted with the number."""
        return bleu_signature([row["target"] for row in self.rows]) if "bleu" in self.metrics else ""

    def confusion(self) -> tuple[list[list[int]], tuple[str, ...]] | None:
        """How often each label was taken for each other, and the labels; None where answers are no labels."""
        return confusion_of(self.task, self.rows, self.answers)


def confusion_of(
    task: Task, rows: Sequence[Row], answers: Sequence[Any]
) -> tuple[list[list[int]], tuple[str, ...]] | None:
    """See `Evaluation.confusion`."""
    if not answers or not isinstance(answers[0], Prediction):
        return None
    labels: tuple[str, ...] = task.labels  # type: ignore[attr-defined]
    return confusion_matrix([a.label for a in answers], [row.name("label") for row in rows], labels), labels


def evaluate(
    name: str | PathLike[str] | Pretrained,
    rows: Source,
    task: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Judge a model by rows that have labels. The folder of a run knows its task and what its columns are called.

    `batch_size`: rows computed together; of a run, by default as many as in its recipe.
    Raises a DataError for rows that cannot be used.
    """
    if not isinstance(name, Pretrained):
        refuse_unfinished(Path(name))
    model = name if isinstance(name, Pretrained) else load(name)
    recipe = Recipe()
    if not isinstance(name, Pretrained) and (Path(name) / DATA).is_file():
        data, recipe = data_of(Path(name)), recipe_of(Path(name))
        task = task or data["task"]
        ours = not isinstance(rows, str | PathLike) and any(isinstance(row, Row) for row in rows)  # renamed already
        columns = columns or (None if ours else columns_of(Path(name)))
    if batch_size is not None:
        recipe = replace(recipe, batch_size=batch_size)
    task = task or model.task_name
    read_rows = rows_of(rows, task, columns)
    if not read_rows:
        raise DataError("rows: got none, expected at least one")
    to_own_device(model.transformer, recipe)
    the_task = make_task(task, model, recipe)
    examples = the_task.encode(read_rows)
    answers, metrics = judge(model, the_task, read_rows, examples, recipe, World())
    return Evaluation(the_task, read_rows, answers, metrics)
