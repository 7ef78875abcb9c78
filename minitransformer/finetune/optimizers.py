"""The optimizer of a recipe, over the weights that train."""

from typing import Any

import torch

from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.what_trains import parameter_groups
from minitransformer.model import Transformer


def make_optimizer(model: Transformer, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019), SGD with momentum, or Adafactor (Shazeer and Stern 2018).

    Each of its groups has a `peak`: the rate that the schedule is a share of.
    """
    groups: list[dict[str, Any]] = parameter_groups(model, recipe)
    rate = groups[0]["peak"]
    match recipe.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=rate, betas=(recipe.beta1, recipe.beta2), eps=recipe.eps, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=rate, momentum=recipe.beta1)
        case _:
            return torch.optim.Adafactor(groups, lr=rate)
