"""The end of a run: the best weights, their scores, the folder, and the folder read again."""

import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from minitransformer.errors import CorruptFileError
from minitransformer.finetune import folder
from minitransformer.finetune.checkpoints import restore_weights
from minitransformer.finetune.distributed import World, wait, world
from minitransformer.finetune.job import Job, Run, judge, judged
from minitransformer.finetune.report import write_report
from minitransformer.finetune.sharded import is_sharded
from minitransformer.finetune.start import make_task, start
from minitransformer.loading import load
from minitransformer.pretrained import Pretrained
from minitransformer.storage import atomic_folder
from minitransformer.storage.files import write_json

REREAD = 64  # rows whose answers the saved folder must give again


def finish(job: Job, facts: Mapping[str, Any]) -> Run:
    """Take the best weights, judge them, write the folder, read it back, and only then say that it is done."""
    history, out = folder.history(job.out), job.out
    best = [event["step"] for event in history if event["event"] == "evaluation" and event["best"]]
    if best:
        restore_weights(out / folder.CHECKPOINTS / f"step-{best[-1]:06d}", job.model.transformer)
    answers, metrics = {}, {}
    if job.parts.dev:
        answers["dev"], metrics["dev"] = judged(job, job.parts.dev, job.dev)
    if job.parts.test:
        answers["test"], metrics["test"] = judged(job, job.parts.test, job.task.encode(job.parts.test))
    if is_sharded(job.model.transformer):
        steps = best or [event["step"] for event in history if event["event"] == "saved"]
        job = replace(job, model=put_together(job, facts["name"], steps[-1]))
    if world().first:
        with atomic_folder(out) as staging:
            job.model.write(staging)
            write_json(metrics, staging / folder.METRICS)
            last = "test" if "test" in answers else "dev"
            judged_rows = {"dev": job.parts.dev, "test": job.parts.test}[last]
            answered = (judged_rows, answers.get(last, []))
            write_report(staging, job.task, job.recipe, facts, history, metrics, answered, str(out))
        read_back(job)
    wait()
    return Run(out, job.model, job.task, metrics, facts["rows"], tuple(history))


def put_together(job: Job, name: str, step: int) -> Pretrained:
    """A model that was spread over processes, whole and on the CPU: as it was loaded, with a checkpoint's weights."""
    model, _ = start(name, job.name, job.parts.labelled, job.recipe)
    restore_weights(job.out / folder.CHECKPOINTS / f"step-{step:06d}", model.transformer)
    return model


def read_back(job: Job) -> None:
    """Load the folder again; a CorruptFileError unless it says the same of some rows as the trained model."""
    rows = (job.parts.dev or job.parts.train)[:REREAD]
    again = load(job.out).to(job.model.device)
    copy = replace(job, model=again, task=make_task(job.name, again, job.parts.train, job.recipe))
    (expected, wanted), (answers, found) = (
        judge(each.model, each.task, rows, each.task.encode(rows), job.recipe, World()) for each in (job, copy)
    )
    same = math.isclose(found["loss"], wanted["loss"], rel_tol=1e-3, abs_tol=1e-3)
    if not same or _words(answers) != _words(expected):
        raise CorruptFileError(
            f"{job.out}: the saved model answers {len(rows)} rows otherwise than the trained one; "
            f"the trained weights are in {folder.CHECKPOINTS}"
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
