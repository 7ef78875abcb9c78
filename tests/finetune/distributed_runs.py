"""Runs of the loop in several processes, as `torch.multiprocessing` starts them: over gloo, on the CPU."""

from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from small_runs import begin

from minitransformer.finetune.checkpoints import save_state
from minitransformer.finetune.data import Splits
from minitransformer.finetune.forward import recomputing, to_own_device
from minitransformer.finetune.job import Job, judge_job
from minitransformer.finetune.loop import train
from minitransformer.finetune.sharded import whole


def outcome(case, *, checkpoint=None, checkpoints=None, shard=False):
    """What a run in float64 gives: losses, gradient norms, the weights, and the scores of the rows themselves."""
    folder, rows, task, fields = case
    fields = {"epochs": 1, "batch_size": 5, "learning_rate": 1e-2, "optimizer": "sgd", **fields, "save_every": 1}
    model, the_task, examples, recipe = begin(folder, rows, task, **fields, shard=shard)
    to_own_device(model.double(), recipe)
    job = Job(task, SimpleNamespace(transformer=model), the_task, Splits([], rows, []), examples, [], recipe, Path())
    keep = lambda *state: save_state(checkpoints, *state, keep=100)
    with recomputing(model, recipe):
        events = train(
            model, the_task, examples, recipe,
            checkpoint=checkpoint,
            save=keep if checkpoints else None,
        )  # fmt: skip
        steps = [event for event in events if event["event"] == "step"]
    scores = judge_job(job, rows, examples)[1]
    with whole(model):
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    numbers = [event[name] for event in steps for name in ("loss", "gradient_norm")]
    return {"numbers": numbers, "weights": weights, "scores": scores}


def work(rank, size, folder, runs):
    """One of several processes: the outcomes of all runs, which the first one writes to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    try:
        found = {name: outcome(case, **options) for name, (case, options) in runs.items()}
        if rank == 0:
            torch.save(found, folder / "found.pt")
    finally:
        dist.destroy_process_group()


def in_processes(size, folder, runs):
    """The outcome of each run, computed by so many processes together."""
    folder.mkdir()
    torch.multiprocessing.spawn(work, (size, folder, runs), size)
    return torch.load(folder / "found.pt")
