"""The training loop: a generator of plain dicts, to be read from top to bottom."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minitransformer.errors import MiniTransformerError
from minitransformer.finetune.checkpoints import State, restore
from minitransformer.finetune.distributed import anyone, share, summed, without_averaging, world
from minitransformer.finetune.faults import not_finite, out_of_memory
from minitransformer.finetune.forward import loss_sum
from minitransformer.finetune.optimizers import make_optimizer
from minitransformer.finetune.plan import Plan
from minitransformer.finetune.randomness import seeded
from minitransformer.finetune.recipe import Recipe, schedule
from minitransformer.finetune.sharded import clip, gradient_norm, whole
from minitransformer.finetune.what_trains import unfreeze
from minitransformer.metrics import goodness
from minitransformer.model import Transformer
from minitransformer.tasks.task import Example, Task

Event = dict[str, Any]  # {"event": "step", "step": 12, "loss": 0.31, ...}
Evaluate = Callable[[], Mapping[str, float]]
Save = Callable[[nn.Module, torch.optim.Optimizer, State], object]
PRECISION = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def train(
    model: Transformer,
    task: Task,
    examples: Sequence[Example],
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    evaluate: Evaluate | None = None,
    save: Save | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train `model` in place, and tell of each step, evaluation and checkpoint. Stop asking and it stops.

    The weights depend on the weights at the start, the examples, the recipe and the step, and on nothing else: neither
    on how often the model is judged or saved, nor on whether the run was interrupted and goes on from a `checkpoint`.
    `evaluate` gives the scores of the model as it is; `save` keeps it; `stop` says whether to end early, say for a
    signal. Raises a NotFiniteError before a loss or gradient that is no number reaches the weights.
    """
    plan = Plan([len(example) for example in examples], recipe)
    optimizer = make_optimizer(model, recipe)
    scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=recipe.dtype == "float16")
    state = State() if checkpoint is None else restore(checkpoint, model, optimizer)
    if state.scaler:
        scaler.load_state_dict(state.scaler)
    forward = loss_sum(model, task, recipe)
    seconds, rows, tokens = 0.0, 0, 0

    while state.step < plan.steps and (recipe.patience is None or state.since_best < recipe.patience):
        began = time.perf_counter()
        places = plan.rows(state.step)
        if unfreeze(model, recipe, plan.epochs_before(state.step)):
            forward = loss_sum(model, task, recipe)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(recipe, state.step, plan.steps)

        model.train()
        loss = None
        while loss is None:
            try:
                loss = gradient(forward, task, [examples[place] for place in places], recipe, state, scaler)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
            if loss is None:  # the same step again, in smaller parts; outside `except`, which keeps tensors alive
                optimizer.zero_grad(set_to_none=True)
                state.micro_batch_size = halved(state, recipe, len(places))
        scaler.unscale_(optimizer)
        norm = gradient_norm(model.parameters())
        # In float16 a gradient may be too large for a while, but not however little the loss is multiplied by.
        bearable = math.isfinite(norm) or (scaler.is_enabled() and scaler.get_scale() >= 1)
        if not math.isfinite(loss) or not bearable:
            with seeded(recipe.seed, state.step), whole(model):
                raise not_finite(model, task, [examples[place] for place in places], state.step, plan.steps, loss)
        clip(model.parameters(), recipe.max_grad_norm, norm)
        scaler.step(optimizer)  # float16: leaves a step out whose gradient is too large for it, and scales down
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.scaler = scaler.state_dict()

        seconds += time.perf_counter() - began
        rows, tokens = rows + len(places), tokens + sum(len(examples[place]) for place in places)
        yield {
            "event": "step",
            "step": state.step,
            "steps": plan.steps,
            "epoch": plan.epochs_before(state.step),
            "loss": loss,
            "gradient_norm": norm,
            "learning_rate": max(group["lr"] for group in optimizer.param_groups),
            "rows_per_second": rows / seconds,
            "tokens_per_second": tokens / seconds,
            "micro_batch_size": state.micro_batch_size or len(places),
        }

        asked_to_stop, judged = anyone(stop()), False
        if evaluate is not None and plan.evaluates_after(state.step - 1):
            scores, judged = evaluate(), True
            best = judge(state, scores, recipe, task)
            yield {"event": "evaluation", "step": state.step, **scores, "metric": metric_of(recipe, task), "best": best}
        due = recipe.save_every is not None and state.step % recipe.save_every == 0
        if save is not None and (judged or due or asked_to_stop or state.step == plan.steps):
            save(model, optimizer, state)
            yield {"event": "saved", "step": state.step}
        if asked_to_stop:
            break
    model.eval()


def gradient(
    forward: nn.Module,
    task: Task,
    examples: Sequence[Example],
    recipe: Recipe,
    state: State,
    scaler: torch.amp.GradScaler,
) -> float:
    """Compute the gradient of the mean loss over these examples; that loss.

    The batch is shared out to the processes and cut into parts, as many rows as memory holds; the sum of each part's
    losses is divided by the count of the whole batch. So the gradient is that of the whole batch, however it is cut.
    """
    device, here = next(forward.parameters()).device, world()
    with seeded(recipe.seed, state.step):  # all that is random in the data of this step
        batch = task.collate(examples)
    count = task.count(batch).item() or 1
    parts = share(batch, state.micro_batch_size or recipe.micro_batch_size or len(examples))
    total = torch.zeros((), device=device)
    dtype = PRECISION[recipe.dtype]
    with seeded(recipe.seed, state.step, here.rank):  # dropout
        for i, (part, counts) in enumerate(parts, start=1):
            inputs = {name: x.to(device) for name, x in part.items()}
            with nullcontext() if i == len(parts) else without_averaging(forward):
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    loss = forward(inputs) * counts
                # The processes' gradients are averaged: times their number, that is the sum.
                scaler.scale(loss * here.size / count).backward()
            total = total + loss.detach()
    return (summed(total) / count).item()


def halved(state: State, recipe: Recipe, rows: int) -> int:
    """Half the micro-batch for which there was no memory. Raises where it was one row."""
    size = min(rows, state.micro_batch_size or recipe.micro_batch_size or rows)
    if size == 1 or world().size > 1:
        raise MiniTransformerError(
            f"step {state.step + 1}: out of memory with {size} rows at a time; try a lower micro_batch_size, a lower "
            f"max_length, recompute, train='lora', or a smaller model"
        )
    return math.ceil(size / 2)


def judge(state: State, scores: Mapping[str, float], recipe: Recipe, task: Task) -> bool:
    """Whether these scores are the best so far. An evaluation without a better one counts against the patience."""
    metric = metric_of(recipe, task)
    if metric not in scores:
        raise MiniTransformerError(f"metric: got {metric!r}, expected one of {', '.join(scores)}")
    value = scores[metric]
    better = not math.isnan(value) and (state.best is None or goodness(metric, value) > goodness(metric, state.best))
    if better:
        state.best, state.best_step, state.since_best = value, state.step, 0
    else:
        state.since_best += 1
    return better


def metric_of(recipe: Recipe, task: Task) -> str:
    """The score that says which weights are the best."""
    return recipe.metric or task.kind.metric
