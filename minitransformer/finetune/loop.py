"""The training loop: a generator of plain dicts, to be read from top to bottom."""

import math
import time
from collections.abc import Iterator, Sequence
from typing import TypedDict

import torch
from torch import nn

from minitransformer.errors import MiniTransformerError
from minitransformer.finetune.batches import batches
from minitransformer.finetune.recipe import Recipe, learning_rate
from minitransformer.model import Transformer
from minitransformer.tasks import Row, classify
from minitransformer.text import Tokenizer


class Step(TypedDict):
    """What one step reports."""

    step: int  # from 1
    steps: int  # in the whole run
    epoch: int  # from 1
    loss: float  # the batch's mean
    learning_rate: float
    rows_per_second: float  # since the run began


def train(
    model: Transformer, tokenizer: Tokenizer, labels: Sequence[str], rows: Sequence[Row], recipe: Recipe
) -> Iterator[Step]:
    """Train `model` in place, one batch for each item asked for. Stop asking and it stops."""
    texts = [row.text for row in rows]
    lengths = classify.lengths(tokenizer, texts)
    targets = classify.encode_labels(rows, labels)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate)
    steps = recipe.epochs * math.ceil(len(rows) / recipe.batch_size)
    step, done, began = 0, 0, time.perf_counter()
    for epoch in range(recipe.epochs):
        for places in batches(lengths, recipe.batch_size, seed=recipe.seed, epoch=epoch):
            rate = learning_rate(recipe, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate

            batch = classify.collate(tokenizer, [texts[i] for i in places], recipe.max_length).to(device)
            model.train()
            with torch.random.fork_rng():  # dropout, too, depends on the seed and the step alone
                torch.manual_seed(recipe.seed * 1_000_003 + step)
                loss = model(**batch, labels=targets[places].to(device)).loss
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
