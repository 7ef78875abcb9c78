"""A whole run: rows, a model with a new head, the loop, a score on rows it has not seen, a folder."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from minitransformer.errors import DataError, MiniTransformerError
from minitransformer.finetune.loop import Collate, Step, train
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.rows import check_labels, label_set, read_rows, split
from minitransformer.pretrained import Pretrained, load
from minitransformer.storage import atomic_folder
from minitransformer.tasks import Row, classify

Watch = Callable[[Step], None]


@dataclass(frozen=True)
class Run:
    """What a run gave."""

    folder: Path
    model: Pretrained
    before: float  # accuracy on the held-out rows with the new, untrained head
    accuracy: float  # and after training
    train_rows: int
    held_out_rows: int
    steps: tuple[Step, ...]


def run(
    name: str | PathLike[str],
    task: str,
    rows: str | PathLike[str] | Sequence[Row],
    *,
    out: str | PathLike[str],
    held_out: str | PathLike[str] | Sequence[Row] | float = 0.1,
    text: str = "text",
    label: str = "label",
    recipe: Recipe | None = None,
    watch: Watch | None = None,
) -> Run:
    """See `minitransformer.finetune`."""
    if task != "classify":
        raise DataError(f"task: got {task!r}, expected 'classify'")
    recipe, out = recipe or Recipe(), Path(out)
    refuse_full_folder(out)
    given = _rows(rows, text, label)
    if isinstance(held_out, float | int):
        if not 0 < held_out < 1:
            raise DataError(f"held-out share: got {held_out}, expected a number between 0 and 1")
        training, unseen = split(given, max(1, round(held_out * len(given))), seed=recipe.seed)
    else:
        training, unseen = given, _rows(held_out, text, label)
    labels = label_set(training)
    check_labels(unseen, labels, "held-out rows")
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)  # for the new head's first values
        model = load(name, head="sequence-classification", labels=labels, new_head=True)
    return train_and_save(model, training, unseen, out=out, recipe=recipe, watch=watch)


def train_and_save(
    model: Pretrained, training: Sequence[Row], unseen: Sequence[Row], *, out: Path, recipe: Recipe, watch: Watch | None
) -> Run:
    """Train `model`, score it on the unseen rows, and write everything to `out` at once at the end."""
    before = accuracy(model, unseen)
    lengths, collate = encode(model, training, recipe)
    steps = []
    for step in train(model.transformer, lengths, collate, recipe):
        steps.append(step)
        if watch is not None:
            watch(step)
    after = accuracy(model, unseen)
    _make_folder(out.parent)
    with atomic_folder(out) as staging:
        model.write(staging)
        figures = {"before": before, "accuracy": after, "train_rows": len(training), "held_out_rows": len(unseen)}
        (staging / "run.json").write_text(json.dumps({"recipe": asdict(recipe), **figures}, indent=2) + "\n")
        (staging / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    return Run(out, model, before, after, len(training), len(unseen), tuple(steps))


def encode(model: Pretrained, rows: Sequence[Row], recipe: Recipe) -> tuple[list[int], Collate]:
    """What the loop asks of the rows: how many tokens each has, and a function that makes a batch of some of them."""
    texts = [row.text for row in rows]
    targets = classify.encode_labels(rows, model.labels)  # [rows]
    max_length = min((n for n in (recipe.max_length, model.max_length) if n is not None), default=None)

    def collate(places: Sequence[int]) -> dict[str, Tensor]:
        batch = classify.collate(model.tokenizer, [texts[i] for i in places], max_length)
        return {**batch, "labels": targets[list(places)]}

    return classify.lengths(model.tokenizer, texts), collate


def accuracy(model: Pretrained, rows: Sequence[Row]) -> float:
    """The share of rows whose label the model predicts."""
    return classify.accuracy(model.predict([row.text for row in rows]), rows)


def refuse_full_folder(out: Path) -> None:
    """Raise before the work rather than after it: the folder must be new or empty, and in a place to write to."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MiniTransformerError(f"{out}: it exists and is not empty; give a new folder")
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise MiniTransformerError(f"{out}: {there} is no folder that can be written to; give another place")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MiniTransformerError(f"{folder}: cannot be made: {error.strerror}; give another place") from error


def _rows(rows: str | PathLike[str] | Sequence[Row], text: str, label: str) -> list[Row]:
    return read_rows(Path(rows), text=text, label=label) if isinstance(rows, str | PathLike) else list(rows)
