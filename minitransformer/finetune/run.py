"""A whole run: rows, a model, the loop, scores on rows it has not seen, a folder that is read back before it counts."""

import signal
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from minitransformer.errors import (
    ConfigError,
    CorruptFileError,
    MiniTransformerError,
    NotFiniteError,
    StoppedError,
    StorageError,
)
from minitransformer.finetune import folder
from minitransformer.finetune.checkpoints import State, newest, save_state
from minitransformer.finetune.data import Source, facts_of, on_disk, place_of, splits
from minitransformer.finetune.distributed import gathered, joined, of_first, wait, world
from minitransformer.finetune.finish import finish
from minitransformer.finetune.forward import deterministic, recomputing, to_own_device
from minitransformer.finetune.job import Job, Run, judge_job
from minitransformer.finetune.loop import Event, train
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.scores import metric_of, score_of
from minitransformer.finetune.signals import stop_signals
from minitransformer.finetune.start import check_task, make_task, start
from minitransformer.tasks.task import Example, Task

Watch = Callable[[Event], None]
GIVEN = ("rows", "dev", "test", "columns", "split_seed")  # what a run reads its rows by, and goes on with


def run(
    name: str | PathLike[str],
    task: str,
    rows: Source,
    *,
    out: str | PathLike[str],
    dev: Source | float = 0.1,
    test: Source | float | None = None,
    columns: Mapping[str, str] | None = None,
    recipe: Recipe,
    split_seed: int | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> Run:
    """See `minitransformer.finetune`. `split_seed`: by which rows are split off, in place of the recipe's seed."""
    check_task(task, recipe)
    out = Path(out)
    with joined() as here, deterministic(recipe):
        if here.first and not resume:
            folder.refuse_full_folder(out)
        seed = recipe.seed if split_seed is None else split_seed
        parts = splits(task, rows, dev=dev, test=test, columns=columns, seed=seed)
        model, recipe = start(place_of(name), task, parts.labelled, recipe)
        to_own_device(model.transformer, recipe)
        the_task, learned = make_task(task, model, recipe), make_task(task, model, recipe, parts.train)
        dev_examples, test_examples = the_task.encode(parts.dev), the_task.encode(parts.test)
        job = Job(task, model, the_task, parts, dev_examples, test_examples, recipe, out)
        examples = learned.encode(parts.train)
        rehearse(job)

        facts = {**facts_of(name, task, parts), "labels": list(getattr(the_task, "labels", ()))}
        facts["given"] = on_disk(rows=rows, dev=dev, test=test, columns=columns, split_seed=split_seed)
        if resume:
            folder.check_same(out, recipe, facts)
        elif here.first:
            folder.begin(out, recipe, facts)
        wait()
        if not (out / folder.RECIPE).is_file():
            raise StorageError(f"{out}: process {here.rank} does not see it; give a folder that all machines share")
        with recomputing(model.transformer, recipe):
            follow(job, learned, examples, watch)
        try:
            return finish(job, facts)
        except KeyboardInterrupt:
            raise StoppedError(
                f"{out}: stopped while the model was judged and written; its checkpoints are complete, and --resume "
                f"{out} does the rest",
                signal.SIGINT,
            ) from None


def resume(out: str | PathLike[str], *, watch: Watch | None = None) -> Run:
    """Go on with a run from its newest checkpoint, to the very weights that it would have had without a break."""
    with joined():
        recipe, data = folder.recipe_of(Path(out)), folder.data_of(Path(out))
        given = data.get("given")
        if not isinstance(given, dict):
            raise MiniTransformerError(
                f"{out}: its rows were no files; call finetune with them, the same recipe, and resume=True"
            )
        if set(given) != set(GIVEN) or not {"name", "task"} <= set(data):
            raise CorruptFileError(f"{Path(out) / folder.DATA}: it is not what a run writes; give the folder of a run")
        return run(data["name"], data["task"], **given, out=out, recipe=recipe, resume=True, watch=watch)


def follow(job: Job, task: Task, examples: list[Example], watch: Watch | None) -> None:
    """Train from the newest checkpoint, or from the start, and log each event. A StoppedError if a signal says stop."""
    checkpoints = job.out / folder.CHECKPOINTS
    here = world()
    checkpoint = of_first(newest(checkpoints) if here.first else None)
    done = 0 if checkpoint is None else int(checkpoint.name.removeprefix("step-"))

    def save(transformer: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
        save_state(checkpoints, transformer, optimizer, state, keep=job.recipe.keep)

    with stop_signals() as signalled, folder.log_file(job.out, done) as write:
        try:
            for event in train(
                job.model.transformer,
                task,
                examples,
                job.recipe,
                checkpoint=checkpoint,
                evaluate=(lambda: judge_job(job, job.parts.dev, job.dev)[1]) if job.parts.dev else None,
                save=save,
                stop=lambda: signalled() is not None,
            ):
                if here.first:
                    write(event)
                    if watch is not None:
                        watch(event)
        except NotFiniteError as error:
            places = "; ".join(job.parts.train[row].where for row in error.rows[:5])
            raise NotFiniteError(f"{error}. The first of these rows: {places}") from None
        number = signalled()
    number = max(gathered(number or 0))  # a signal may have reached one machine alone
    if number:
        raise StoppedError(f"{job.out}: stopped by signal {number} and saved; go on with --resume {job.out}", number)


def rehearse(job: Job) -> None:
    """Judge a few rows before training, so that what is missing for it is not missed after an epoch."""
    for field in ("metric", "patience"):
        if not job.parts.dev and getattr(job.recipe, field) is not None:
            raise ConfigError(f"{field}: got {getattr(job.recipe, field)!r}, but there are no dev rows to judge by")
    judged = [(rows, examples) for rows, examples in ((job.parts.dev, job.dev), (job.parts.test, job.test)) if rows]
    train = job.parts.train[:4]
    for rows, examples in judged or [(train, job.task.encode(train))]:  # by which the saved folder is judged
        few = rows[:4]
        _, found = judge_job(job, few, [example for example in examples if example.row < len(few)])
        score_of(found, metric_of(job.recipe, job.task))
