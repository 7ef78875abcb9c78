"""The end of a run: the best weights, their scores, the folder, and the folder read again."""

import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from minitransformer.errors import CorruptFileError
from minitransformer.finetune import folder
from minitransformer.finetune.checkpoints import best, newest, restore_weights
from minitransformer.finetune.distributed import World, of_first, wait, world
from minitransformer.finetune.job import Job, Run, judge, judge_job
from minitransformer.finetune.report import write_report
from minitransformer.finetune.sharded import is_sharded
from minitransformer.finetune.start import make_task, start
from minitransformer.loading import load
from minitransformer.pretrained import Pretrained
from minitransformer.storage import atomic_folder
from minitransformer.storage.files import write_json

REREAD = 64  # rows whose answers the saved folder must give again
ALIKE = 0.95  # of them, so many: where two answers are as good, rounding decides


def finish(job: Job, facts: Mapping[str, Any]) -> Run:
    """Take the best weights, judge them, write the folder, read it back, and only then say that it is done."""
    checkpoints = job.out / folder.CHECKPOINTS
    kept = of_first((best(checkpoints) or newest(checkpoints)) if world().first else None)
    if kept is not None:
        restore_weights(kept, job.model.transformer)
    answers, metrics = {}, {}
    if job.parts.dev:
        answers["dev"], metrics["dev"] = judge_job(job, job.parts.dev, job.dev)
    if job.parts.test:
        answers["test"], metrics["test"] = judge_job(job, job.parts.test, job.test)
    if is_sharded(job.model.transformer) and kept is not None:
        job = replace(job, model=put_together(job, facts["name"], kept))
    history = folder.history(job.out)
    if world().first:
        with atomic_folder(job.out) as staging:
            job.model.write(staging)
            if job.recipe.train == "lora" and not job.task.kind.added_tokens:
                job.model.save_adapter(staging / folder.ADAPTER)  # the model itself has it merged
            read_back(job, staging)
        with atomic_folder(job.out) as staging:
            last = "test" if "test" in answers else "dev"
            answered = ({"dev": job.parts.dev, "test": job.parts.test}[last], answers.get(last, []))
            write_report(staging, job.task, job.recipe, facts, history, metrics, answered, str(job.out))
            write_json(metrics, staging / folder.METRICS)
    wait()
    return Run(job.out, job.model, job.task, metrics, facts["rows"], tuple(history))


def put_together(job: Job, name: str, checkpoint: Path) -> Pretrained:
    """A model that was spread over processes, whole and on the CPU: as it was loaded, with a checkpoint's weights."""
    model, _ = start(name, job.name, job.parts.labelled, job.recipe)
    restore_weights(checkpoint, model.transformer)
    return model


def read_back(job: Job, written: Path) -> None:
    """Load what was written; a CorruptFileError unless it says the same of some rows as the trained model."""
    rows = (job.parts.dev or job.parts.train)[:REREAD]
    again = load(written).to(job.model.device)
    copy = replace(job, model=again, task=make_task(job.name, again, job.recipe))
    (expected, wanted), (answers, found) = (
        judge(each.model, each.task, rows, each.task.encode(rows), job.recipe, World()) for each in (job, copy)
    )
    alike = sum(_words(one) == _words(other) for one, other in zip(answers, expected, strict=True))
    if not math.isclose(found["loss"], wanted["loss"], rel_tol=1e-3, abs_tol=1e-3) or alike < ALIKE * len(rows):
        raise CorruptFileError(
            f"{job.out}: the saved model answers {len(rows) - alike} of {len(rows)} rows otherwise than the trained "
            f"one; the trained weights are in {folder.CHECKPOINTS}"
        )


def _words(answer: Any) -> Any:
    """What is no float in an answer: probabilities may differ in the last bits."""
    if is_dataclass(answer) and not isinstance(answer, type):
        return _words(asdict(answer))
    if isinstance(answer, dict):
        return {name: _words(value) for name, value in answer.items() if not isinstance(value, float)}
    if isinstance(answer, list | tuple):
        return [_words(value) for value in answer if not isinstance(value, float)]
    return answer
