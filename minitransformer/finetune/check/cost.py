"""What a run will need of memory and time: counted where that is exact, measured on a few rows where it is not."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from minitransformer.finetune.check.report import Cost
from minitransformer.finetune.checkpoints import State
from minitransformer.finetune.forward import LossSum, recomputing
from minitransformer.finetune.loop import gradient
from minitransformer.finetune.plan import Plan
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.what_trains import names_that_train
from minitransformer.model import Transformer
from minitransformer.model.evaluation import evaluation
from minitransformer.model.stack import Block
from minitransformer.tasks.task import Example, Task

FEW = 4  # rows whose activations are counted on a CPU: those of more rows are so many times as much
TIMED, ENOUGH = 3, 10.0  # steps that are timed; fewer, when so many seconds are over
AT_ONCE = 16  # rows of a step that are timed on a CPU: no check should need the memory of a run


def cost(model: Transformer, task: Task, examples: Sequence[Example], recipe: Recipe) -> Cost:
    """What training this model on these examples will need. Its weights stay as they are, and it keeps no gradient.

    The optimizer's own time is left out, and so is what a step needs for a moment only.
    """
    plan = Plan([len(example) or 1 for example in examples], recipe)  # 1: an image
    steps = [plan.rows(step) for step in range(min(plan.steps, plan.starts[1]))]  # of one epoch
    rows, width = largest(plan.lengths, steps, recipe.micro_batch_size)
    trains = set(names_that_train(model, recipe.train))
    parameters = dict(model.named_parameters())
    training = [x for name, x in parameters.items() if name in trains]
    device = next(iter(parameters.values())).device
    with untouched(model, trains):
        part = [examples[place] for place in rows]
        activations = on_gpu(model, task, part, recipe) if device.type == "cuda" else on_cpu(model, task, part, recipe)
        with recomputing(model, recipe):
            seconds = seconds_per_token(model, task, examples, plan.lengths, steps, recipe)
    per_step = seconds * sum(padded(plan.lengths, places) for places in steps) / len(steps)
    return Cost(
        parameters=sum(x.numel() for x in parameters.values()),
        training=sum(x.numel() for x in training),
        weights=size(parameters.values()) + size(model.buffers()),
        gradients=size(training),
        moments=sum(moment_bytes(x, recipe) for x in training),
        activations=activations,
        batch_rows=len(rows),
        batch_tokens=width,
        steps=plan.steps,
        seconds_per_step=per_step,
        seconds=per_step * plan.steps,
        device="GPU" if device.type == "cuda" else "CPU",
    )


@contextmanager
def untouched(model: Transformer, trains: set[str]) -> Iterator[None]:
    """Inside, the model trains what has these names; afterwards it is as before, without gradients."""
    before = {name: x.requires_grad for name, x in model.named_parameters()}
    with evaluation(model):
        try:
            model.train()
            for name, x in model.named_parameters():
                x.requires_grad_(name in trains)
            yield
        finally:
            for name, x in model.named_parameters():
                x.grad = None
                x.requires_grad_(before[name])


def padded(lengths: Sequence[int], places: Sequence[int]) -> int:
    """How many tokens a batch has, padding included."""
    return len(places) * max(lengths[place] for place in places)


def largest(lengths: Sequence[int], steps: Sequence[list[int]], micro: int | None) -> tuple[list[int], int]:
    """The rows that are computed at once and have the most tokens, padding included; and how long that makes each."""
    places = max(steps, key=lambda step: padded(lengths, step) * min(1, (micro or len(step)) / len(step)))
    longest_first = sorted(places, key=lambda place: -lengths[place])[: micro or len(places)]
    return longest_first, lengths[longest_first[0]]


def size(tensors: Iterable[Tensor]) -> int:
    """Their bytes."""
    return sum(x.numel() * x.element_size() for x in tensors)


def moment_bytes(x: Tensor, recipe: Recipe) -> int:
    """The bytes that the optimizer keeps for a weight, its count of steps among them."""
    match recipe.optimizer:
        case "adamw":
            return 2 * size([x]) + 4
        case "sgd":
            return size([x]) if recipe.beta1 else 0
        case _ if x.ndim < 2:
            return size([x]) + 4
        case _:  # Adafactor: of a matrix, the means of its rows and of its columns
            return (x.numel() // x.shape[-1] + x.numel() // x.shape[-2]) * x.element_size() + 4


def on_gpu(model: Transformer, task: Task, examples: Sequence[Example], recipe: Recipe) -> int:
    """The bytes that a step has at most, besides weights and gradients."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with recomputing(model, recipe):
        compute(model, task, examples, recipe)
    return torch.cuda.max_memory_allocated() - before - size(x for x in model.parameters() if x.grad is not None)


def on_cpu(model: Transformer, task: Task, examples: Sequence[Example], recipe: Recipe) -> int:
    """The bytes that a forward pass keeps for the backward pass: counted on a few rows, since they grow with them."""
    few = examples[:FEW]
    kept = saved(model, task, few, recipe)
    blocks = [part for part in model.modules() if isinstance(part, Block)]
    if recipe.recompute and blocks:  # what enters each block, and what one block keeps
        with recomputing(model, recipe):
            outside = saved(model, task, few, recipe)
        states = len(few) * max(map(len, few)) * width(model) * 4
        kept = outside + (kept - outside) // len(blocks) + states * len(blocks)
    return kept * len(examples) // len(few)


def width(model: Transformer) -> int:
    """How many numbers stand for each token between two blocks."""
    stack = model.config.encoder or model.config.decoder
    return 0 if stack is None else stack.d_model


def saved(model: Transformer, task: Task, examples: Sequence[Example], recipe: Recipe) -> int:
    """The bytes of all tensors that autograd keeps, each storage once, without the weights."""
    weights = {x.untyped_storage().data_ptr() for x in model.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        compute(model, task, examples, replace(recipe, micro_batch_size=None))
    return sum(count for place, count in kept.items() if place not in weights)


def seconds_per_token(
    model: Transformer,
    task: Task,
    examples: Sequence[Example],
    lengths: Sequence[int],
    steps: Sequence[list[int]],
    recipe: Recipe,
) -> float:
    """Time the steps of middling size, and divide by their tokens."""
    by_size = sorted(steps, key=lambda places: padded(lengths, places))
    middle = max(0, len(steps) // 2 - TIMED // 2)
    on_cpu = next(model.parameters()).device.type == "cpu"
    seconds, tokens = 0.0, 0
    for places in (by_size[middle : middle + TIMED] * TIMED)[:TIMED]:
        part = places[:AT_ONCE] if on_cpu else places
        began = time.perf_counter()
        compute(model, task, [examples[place] for place in part], recipe)
        seconds, tokens = seconds + time.perf_counter() - began, tokens + padded(lengths, part)
        if seconds > ENOUGH:
            break
    return seconds / tokens


def compute(model: Transformer, task: Task, examples: Sequence[Example], recipe: Recipe) -> None:
    """The gradient of one step, as the loop computes it; waits until a GPU has done so."""
    device = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device, enabled=recipe.dtype == "float16")
    gradient(LossSum(model, task), task, examples, recipe, State(), scaler)  # `.item()` of the loss waits for it
