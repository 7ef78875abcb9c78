"""Which learning rate suits: the loss while the rate grows from far too small to far too large, in a hundred steps.

Smith 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike

import torch
from torch import nn

from minitransformer.errors import DataError, MiniTransformerError, NotFiniteError
from minitransformer.finetune.checkpoints import State
from minitransformer.finetune.data import Source, rows_of
from minitransformer.finetune.faults import out_of_memory
from minitransformer.finetune.forward import deterministic, loss_sum, recomputing, to_own_device
from minitransformer.finetune.loop import gradient
from minitransformer.finetune.optimizers import make_optimizer
from minitransformer.finetune.plan import Plan
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.start import check_recipe, make_task, start
from minitransformer.model import Transformer
from minitransformer.tasks.task import Example, Task

LOWEST, HIGHEST, STEPS = 1e-7, 1.0, 100
MEMORY = 0.9  # of the smoothed loss: how much of it stays from step to step
SETTLED = 10  # steps until it is a mean of enough batches; the rate is still too low to change anything
TOO_HIGH = 4  # times the lowest: the test ends


@dataclass(frozen=True)
class RateTest:
    """The loss at each rate, smoothed, and the rate that it speaks for."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float | None  # None where the loss never fell
    ended_early: bool  # because the loss had grown too high, or was no number any more


def find_rate(
    name: str | PathLike[str],
    task: str,
    rows: Source,
    *,
    columns: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
) -> RateTest:
    """The range test of a model that is loaded for it, on all of these rows; nothing is written."""
    check_recipe(task, recipe or Recipe())
    training = rows_of(rows, task, columns)
    model, complete = start(str(name), task, training, recipe or Recipe())
    to_own_device(model.transformer, complete)
    the_task = make_task(task, model, complete, training)
    with deterministic(complete), recomputing(model.transformer, complete):
        return range_test(model.transformer, the_task, the_task.encode(training), complete)


def range_test(model: Transformer, task: Task, examples: Sequence[Example], recipe: Recipe) -> RateTest:
    """Train for a hundred steps at rates from 1e-7 to 1, each a little higher; the model is as before afterwards.

    The steps are those of a run: the same batches, gradient, clipping and optimizer, without its schedule. Rates that
    differ by layer keep their proportions.
    """
    if not examples:
        raise DataError("rows: got none, expected at least one")
    before = {name: x.clone() for name, x in model.named_parameters() if x.requires_grad}
    training = model.training
    try:
        losses = measure(model, task, examples, replace(recipe, steps=STEPS, dtype=without_scale(recipe.dtype)))
    finally:
        with torch.no_grad():
            for name, x in model.named_parameters():
                x.grad = None
                if name in before:
                    x.copy_(before[name])
        model.train(training)
    if not losses:
        raise NotFiniteError(
            "the loss of the first step is no finite number, before anything was trained; see the rows"
        )
    rates = tuple(rate_at(step) for step in range(len(losses)))
    return RateTest(rates, tuple(losses), suggestion(rates, losses), len(losses) < STEPS)


def measure(model: Transformer, task: Task, examples: Sequence[Example], recipe: Recipe) -> list[float]:
    """The smoothed loss before each step; it ends where the loss has grown to four times its lowest."""
    plan = Plan([len(example) for example in examples], recipe)
    optimizer = make_optimizer(model, recipe)
    highest = max(group["peak"] for group in optimizer.param_groups)
    scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=False)
    forward, state, losses, smoothed = loss_sum(model, task, recipe), State(), list[float](), 0.0
    model.train()
    for step in range(STEPS):
        state.step = step
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step) * group["peak"] / highest
        try:
            loss = gradient(forward, task, [examples[i] for i in plan.rows(step)], recipe, state, scaler)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise MiniTransformerError("out of memory; try a lower micro_batch_size or max_length") from None
        nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        smoothed = MEMORY * smoothed + (1 - MEMORY) * loss
        losses.append(smoothed / (1 - MEMORY ** (step + 1)))  # as if it had not begun at 0
        if not losses[-1] <= TOO_HIGH * min(losses):  # nan, too
            return [x for x in losses if math.isfinite(x)]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return losses


def rate_at(step: int) -> float:
    """The rate of a step (from 0): each is the one before it times the same number."""
    return LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))


def suggestion(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """A tenth of the rate at which the loss is lowest; None where it never falls.

    At the lowest loss a rate already does as much harm as good, so it has to be less. Where the loss falls fastest
    would be another rule, but that place jumps from batch to batch; the lowest loss stays where it is.
    """
    lowest = lowest_place(losses)
    return float(f"{rates[lowest] / 10:.2g}") if lowest > SETTLED else None


def lowest_place(losses: Sequence[float]) -> int:
    """Where the loss is lowest, once it is settled: the first batches may be easy ones by chance."""
    return min(range(min(SETTLED, len(losses) - 1), len(losses)), key=losses.__getitem__)


def without_scale(dtype: str) -> str:
    """float16 needs its losses scaled, and skips steps meanwhile; bfloat16 shows the same curve without."""
    return "bfloat16" if dtype == "float16" else dtype
