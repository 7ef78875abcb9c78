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
from minitransformer.finetune.faults import memory_for_optimizer, not_finite, out_of_memory
from minitransformer.finetune.forward import loss_sum
from minitransformer.finetune.optimizers import make_optimizer
from minitransformer.finetune.plan import Plan
from minitransformer.finetune.randomness import seeded
from minitransformer.finetune.recipe import Recipe, schedule
from minitransformer.finetune.scores import metric_of, note_score
from minitransformer.finetune.sharded import clip, gradient_norm, whole
from minitransformer.finetune.what_trains import unfreeze
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
    """Train `model` in place, and tell of each step, evaluation and checkpoint: the next step waits to be asked for.

    The weights depend on the weights at the start, the examples, the recipe and the step, and on nothing else: neither
    on how often the model is judged or saved, nor on whether the run was interrupted and goes on from a `checkpoint`.
    `evaluate` gives the scores of the model as it is; `save` keeps it; `stop` says whether to end early, say for a
    signal. What of the model trains (`what_trains.prepare`) and what the task reads (`start.make_task`) is settled
    before; the recipe's learning_rate is a number by then.

    Yields {"event": "step", "step" (from 1), "steps", "epoch", "loss" (the mean of the step's batch), "gradient_norm"
    (before it is clipped), "learning_rate" (the highest), "rows_per_second", "tokens_per_second" (since the start,
    without padding), "micro_batch_size"}; {"event": "evaluation", "step", each score, "metric", "best"}; {"event":
    "saved", "step"}.

    Raises a NotFiniteError before a loss or gradient that is no number reaches the weights, a DataError where there is
    no example, a ConfigError for a metric that `evaluate` does not give, and a MiniTransformerError where memory does
    not suffice for one row.
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
            forward = loss_sum(model, task, recipe)  # anew: of several processes, each keeps a list of what trains
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
        # float16: a gradient that overflows while the loss is scaled up is left out, and the scale halved. Where the
        # scale is below 1 already, it is the model's own.
        overflow = scaler.is_enabled() and scaler.get_scale() >= 1
        if not math.isfinite(loss) or not (math.isfinite(norm) or overflow):
            with seeded(recipe.seed, state.step), whole(model):
                raise not_finite(model, task, [examples[place] for place in places], state.step, plan.steps, loss)
        clip(model.parameters(), recipe.max_grad_norm, norm)
        with memory_for_optimizer(state.step):
            scaler.step(optimizer)
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
            "micro_batch_size": rows_at_once(state, recipe, len(places)),
        }

        asked_to_stop, evaluated = anyone(stop()), False
        if evaluate is not None and plan.evaluates_after(state.step - 1):
            scores, evaluated = evaluate(), True
            best = note_score(state, scores, recipe, task)
            yield {"event": "evaluation", "step": state.step, **scores, "metric": metric_of(recipe, task), "best": best}
        due = recipe.save_every is not None and state.step % recipe.save_every == 0
        if save is not None and (evaluated or due or asked_to_stop or state.step == plan.steps):
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
    """Compute the gradient of the mean loss over these examples. Returns that loss.

    The batch is shared out to the processes and cut into parts, as many rows as memory holds; the sum of each part's
    losses is divided by the count of the whole batch. So the gradient is that of the whole batch, however it is cut.
    """
    device, here = next(forward.parameters()).device, world()
    with seeded(recipe.seed, state.step):  # all that is random in the data of this step
        batch = task.collate(examples)
    count = task.count(batch).item() or 1
    parts = share(batch, rows_at_once(state, recipe, len(examples)))
    total = torch.zeros((), device=device)
    dtype = PRECISION[recipe.dtype]
    with seeded(recipe.seed, state.step, here.rank):  # dropout
        for i, (part, weight) in enumerate(parts, start=1):  # weight 0: a part without rows, to keep pace with others
            inputs = {name: x.to(device) for name, x in part.items()}
            with nullcontext() if i == len(parts) else without_averaging(forward):
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    loss = forward(inputs) * weight
                # The processes' gradients are averaged: times their number, that is the sum.
                scaler.scale(loss * here.size / count).backward()
            total = total + loss.detach()
    return (summed(total) / count).item()


def rows_at_once(state: State, recipe: Recipe, rows: int) -> int:
    """How many of so many rows are computed at once."""
    return min(rows, state.micro_batch_size or recipe.micro_batch_size or rows)


def halved(state: State, recipe: Recipe, rows: int) -> int:
    """Half the micro-batch for which there was no memory. Raises where it was one row."""
    size = rows_at_once(state, recipe, rows)
    if size == 1 or world().size > 1:
        raise MiniTransformerError(
            f"step {state.step + 1}: out of memory with {size} rows at a time; try a lower micro_batch_size, a lower "
            f"max_length, recompute, train='lora', or a smaller model"
        )
    return math.ceil(size / 2)
