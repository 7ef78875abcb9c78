"""What a run is made of and what it gives, and how its model is judged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitransformer.finetune.data import Splits
from minitransformer.finetune.distributed import World, gathered, world
from minitransformer.finetune.faults import out_of_memory
from minitransformer.finetune.loop import Event
from minitransformer.finetune.randomness import seeded
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.sharded import whole
from minitransformer.pretrained import Pretrained
from minitransformer.tasks.inference import Reading, read, scores
from minitransformer.tasks.task import Example, Row, Task

Scores = dict[str, float]


@dataclass(frozen=True)
class Run:
    """What a run gave."""

    folder: Path
    model: Pretrained
    task: Task
    metrics: dict[str, Scores]  # of "dev" and "test"
    rows: dict[str, int]  # how many there are of "train", "dev" and "test"
    history: tuple[Event, ...]


@dataclass(frozen=True)
class Job:
    """What a run is made of."""

    name: str  # of the task
    model: Pretrained
    task: Task
    parts: Splits
    dev: list[Example]
    test: list[Example]
    recipe: Recipe
    out: Path


def judge_job(job: Job, rows: Sequence[Row], examples: Sequence[Example]) -> tuple[list[Any], Scores]:
    """The model's answers to these rows, and its scores. Each process reads its share, and all get all answers."""
    with whole(job.model.transformer):
        return judge(job.model, job.task, rows, examples, job.recipe, world())


def judge(
    model: Pretrained, task: Task, rows: Sequence[Row], examples: Sequence[Example], recipe: Recipe, here: World
) -> tuple[list[Any], Scores]:
    """A model's answers to these rows, and its scores, which do not depend on how many processes share the work.

    What is random in it is the same each time: it follows from the recipe's seed and the number of the batch.
    """
    size = recipe.micro_batch_size or recipe.batch_size
    by_length = sorted(range(len(examples)), key=lambda i: len(examples[i]))
    batches = [by_length[i : i + size] for i in range(0, len(examples), size)]
    mine = []
    for number in range(here.rank, len(batches), here.size):
        mine.append(as_memory_allows(model, task, [examples[i] for i in batches[number]], recipe.seed, number))
    by_process = gathered(mine) if here.size > 1 else [mine]
    readings = [by_process[number % here.size][number // here.size] for number in range(len(batches))]
    decoded: list[Any] = [None] * len(examples)
    for places, reading in zip(batches, readings, strict=True):
        for i, found in zip(places, reading.decoded, strict=True):
            decoded[i] = found
    whole_reading = Reading(decoded, sum(each.loss for each in readings), sum(each.count for each in readings))
    return scores(task, rows, examples, whole_reading)


def as_memory_allows(model: Pretrained, task: Task, examples: Sequence[Example], *seed: int) -> Reading:
    """What the model makes of these examples, read at once; where there is no memory for that, in smaller parts."""
    size = len(examples)
    while True:
        try:
            with seeded(*seed):
                return read(model.transformer, task, examples, batch_size=size)
        except RuntimeError as error:
            if size == 1 or not out_of_memory(error):
                raise
        size = math.ceil(size / 2)  # outside `except`, which keeps tensors alive
