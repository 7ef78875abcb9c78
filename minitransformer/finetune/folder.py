"""The folder of a run, in the order in which it is filled.

Each line says when its files are written, and for what.

    recipe.json data.json environment.json    at first: what the run is a function of, and where it was computed
    log.jsonl                                 one line for each step, evaluation and checkpoint
    checkpoints/                              see checkpoints.py
    model.safetensors config.json ...         at the end: the model, as transformers reads it
    adapter/                                  at the end, of LoRA: what peft reads, and `load`, with the base
    metrics.json README.md *.svg              at the end: how good it is
"""

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from minitransformer.errors import DataError, MiniTransformerError, NotFoundError, StorageError
from minitransformer.finetune.distributed import world
from minitransformer.finetune.recipe import Recipe, from_json
from minitransformer.storage import atomic_folder, read_json
from minitransformer.storage.files import write_json

RECIPE, DATA, ENVIRONMENT, LOG, METRICS = "recipe.json", "data.json", "environment.json", "log.jsonl", "metrics.json"
CHECKPOINTS, ADAPTER = "checkpoints", "adapter"


def refuse_full_folder(out: Path) -> None:
    """Raise before the work rather than after it: the folder must be new or empty, and in a place to write to."""
    try:
        out.exists()
    except OSError as error:
        raise StorageError(f"{out!s:.60}: no name for a folder: {error.strerror}; give another") from None
    if (out / RECIPE).is_file():
        raise MiniTransformerError(f"{out}: it holds a run already; go on with it (resume), or give a new folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MiniTransformerError(f"{out}: it exists and is not empty; give a new folder")
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise StorageError(f"{out}: {there} is no folder that can be written to; give another place")


def begin(out: Path, recipe: Recipe, data: Mapping[str, Any]) -> None:
    """Make the folder with what the run is a function of: all of it appears, or nothing."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{out}: cannot be made: {error.strerror}; give another place") from error
    with atomic_folder(out) as staging:
        write_json(asdict(recipe), staging / RECIPE)
        write_json(data, staging / DATA)
        write_json(environment(), staging / ENVIRONMENT)


def check_same(out: Path, recipe: Recipe, data: Mapping[str, Any]) -> None:
    """Raise a DataError unless the folder holds a run of this recipe over these data."""
    before = asdict(recipe_of(out))
    changed = [
        f"{name} was {before[name]!r}, is {value!r}" for name, value in asdict(recipe).items() if before[name] != value
    ]
    if changed:
        raise DataError(f"{out}: it holds a run of another recipe: {'; '.join(changed)}. Give a new folder")
    then = data_of(out)
    for name, what in {"name": "model", "weights_sha256": "model", "task": "task", "sha256": "data"}.items():
        if then.get(name) != data[name]:
            raise DataError(
                f"{out}: it holds a run of another {what}: {name} was {then.get(name)!r}, is {data[name]!r}. "
                f"Give a new folder"
            )


def refuse_unfinished(name: Path) -> None:
    """Raise where this is the folder of a run that has no model yet, or of several runs."""
    if (name / RECIPE).is_file() and not (name / METRICS).is_file():
        raise NotFoundError(f"{name}: the run there is not finished; go on with it: --resume {name}")
    several = sorted(each.parent.name for each in name.glob(f"*/{RECIPE}"))
    if several and not (name / "config.json").is_file():
        raise NotFoundError(f"{name}: it holds several runs; give one of them, such as {name / several[0]}")


def recipe_of(out: Path) -> Recipe:
    """The recipe of a run."""
    if not (out / RECIPE).is_file():
        raise NotFoundError(f"{out}: no {RECIPE} there; expected the folder of a run")
    return from_json(read_json(out / RECIPE))


def data_of(out: Path) -> dict[str, Any]:
    """The model, the task and the data of a run."""
    return read_json(out / DATA)


def columns_of(out: Path) -> dict[str, str] | None:
    """What the columns of a run's rows were called in their files, where that was said."""
    return (data_of(out).get("given") or {}).get("columns") if (out / DATA).is_file() else None


@contextmanager
def log_file(out: Path, step: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that adds an event to log.jsonl; what it had of later steps than `step` is removed."""
    path = out / LOG
    if not world().first:
        yield lambda event: None
        return
    kept = [event for event in history(out) if event["step"] <= step]
    beside = path.with_suffix(".new")
    beside.write_text("".join(f"{json.dumps(event)}\n" for event in kept), encoding="utf-8")
    os.replace(beside, path)  # so that no end of the process loses what it had
    with path.open("a", encoding="utf-8", buffering=1) as file:
        yield lambda event: print(json.dumps(event), file=file)


def history(out: Path) -> list[dict[str, Any]]:
    """The events of a run's log. Lines that are none are left out: a crash may have cut one short."""
    if not (out / LOG).exists():
        return []
    events = []
    for line in (out / LOG).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("step"), int) and "event" in event:
            events.append(event)
    return events


def environment() -> dict[str, Any]:
    """Where a run is computed: the same run elsewhere may differ in the last bits."""
    return {
        "minitransformer": version("minitransformer"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": world().size,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
