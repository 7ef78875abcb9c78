"""The forward pass as the loop runs it: compiled, with activations computed twice, over several processes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minitransformer.finetune.distributed import own_device, parallel, world
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.sharded import shard
from minitransformer.model import Transformer
from minitransformer.model.stack import Block
from minitransformer.tasks.task import Task


class LossSum(nn.Module):
    """The sum of a batch's losses. A module, as torch's wrappers of modules want it."""

    def __init__(self, model: Transformer, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """batch: as the task collates it -> a number."""
        loss, _ = self.task.loss(self.model, batch)
        return loss


def to_own_device(model: Transformer, recipe: Recipe) -> None:
    """Move the model to this process's GPU, where there is one; if the recipe says so, this process's share of it."""
    if recipe.shard and world().size > 1:
        shard(model, own_device(), recipe)
    else:
        model.to(own_device())


def loss_sum(model: Transformer, task: Task, recipe: Recipe) -> nn.Module:
    """The module that gives the sum of a batch's losses, as the recipe wants it computed."""
    module: nn.Module = LossSum(model, task)
    if recipe.compile:
        module.compile(dynamic=True)
    return parallel(module)


@contextmanager
def recomputing(model: Transformer, recipe: Recipe) -> Iterator[None]:
    """Inside, each block forgets its activations, if the recipe says so, and computes them again to go back.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost": one block's memory instead of that of all, for a
    third more time.
    """
    blocks = [part for part in model.modules() if isinstance(part, Block)] if recipe.recompute else []
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own shows again


@contextmanager
def deterministic(recipe: Recipe) -> Iterator[None]:
    """Inside, only kernels that give the same bits each time, if the recipe wants them; on a CPU they do anyway."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or recipe.deterministic)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
