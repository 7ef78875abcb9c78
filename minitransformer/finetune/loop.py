"""The training loop: a generator of plain dicts, to be read from top to bottom."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn

from minitransformer.errors import MiniTransformerError
from minitransformer.finetune.batches import batches
from minitransformer.finetune.recipe import Recipe, learning_rate
from minitransformer.model import Transformer

Collate = Callable[[Sequence[int]], Mapping[str, Tensor]]  # some rows' numbers -> their tensors, labels among them


class Step(TypedDict):
    """What one step reports."""

    step: int  # from 1
    steps: int  # in the whole run
    epoch: int  # from 1
    loss: float  # the batch's mean
    learning_rate: float
    rows_per_second: float  # since the run began


def train(model: Transformer, lengths: Sequence[int], collate: Collate, recipe: Recipe) -> Iterator[Step]:
    """Train `model` in place, one batch for each item asked for. Stop asking and it stops.

    The task is in `collate`, which makes a batch of some rows: what the model takes, and the labels that give its loss.
    `lengths`: how many tokens each row has.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate)
    steps = recipe.epochs * math.ceil(len(lengths) / recipe.batch_size)
    step, done, began = 0, 0, time.perf_counter()
    for epoch in range(recipe.epochs):
        for places in batches(lengths, recipe.batch_size, seed=recipe.seed, epoch=epoch):
            rate = learning_rate(recipe, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate

            batch = {name: x.to(device) for name, x in collate(places).items()}
            model.train()
            with torch.random.fork_rng():  # dropout, too, depends on the seed and the step alone
                torch.manual_seed(recipe.seed * 1_000_003 + step)
                loss = model(**batch).loss
            if not torch.isfinite(loss):
                raise MiniTransformerError(
                    f"the loss is {loss.item()} at step {step + 1} of {steps}; try a lower learning rate"
                )
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            step, done = step + 1, done + len(places)
            yield Step(
                step=step,
                steps=steps,
                epoch=epoch + 1,
                loss=loss.item(),
                learning_rate=rate,
                rows_per_second=done / (time.perf_counter() - began),
            )
    model.eval()


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay, vectors (biases, norms) do not: a bias pulled to 0 explains nothing more simply."""
    weights = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
