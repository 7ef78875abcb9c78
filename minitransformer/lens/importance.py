"""The importance of heads by gradient: how fast the loss changes when a head is turned down a little."""

from typing import Any

import torch

from minitransformer.errors import InputError
from minitransformer.lens.examples import Example, examples
from minitransformer.lens.gradients import check_gradients
from minitransformer.lens.head_scores import HeadScores, group_of
from minitransformer.lens.metric import Metric, value_of
from minitransformer.model.evaluation import evaluation
from minitransformer.model.points import heads_of, stacks
from minitransformer.pretrained import Pretrained

MASKS = {"encoder": "head_mask", "decoder": "decoder_head_mask", "cross": "cross_attn_head_mask"}  # of two stacks


def head_importance(
    model: Pretrained, data: Any, metric: Metric | None = None, *, attention: str | None = None
) -> HeadScores:
    """|∂ loss / ∂ mask_h| at mask = 1, the mean over the examples: [L H]. Michel et al. 2019, eq. 2.

    mask_h multiplies what head h gives: 1 keeps it, 0 mutes it. One backward pass for each example gives all heads;
    `ablate` needs a forward pass for each head. Differs from the paper, which also divides by each layer's norm.
    data, metric: see `examples`; the metric has to be differentiable, and no distance, which has no slope at 0.
    """
    check_gradients()
    heads = heads_of(model.transformer, attention)
    name, given = examples(model, data, metric)
    if name == "distance":
        raise InputError(
            "metric: this model has no loss here, and the distance from its own output has no slope where nothing is "
            "muted yet; give labels or metric=, or see ablate"
        )
    mask_name = "head_mask" if len(stacks(model.transformer)) == 1 else MASKS[str(attention)]
    scores = torch.zeros(heads.layers, heads.stack.config.heads, dtype=torch.float64)
    total = 0.0
    with evaluation(model.transformer), torch.enable_grad():
        for each in given:
            value, gradient = slope(model, each, mask_name, scores.shape)
            scores += gradient.abs() / len(given)
            total += value / len(given)
    return HeadScores(
        scores=scores,
        name=f"importance of heads: slope of the {name}",
        metric=name,
        unchanged=total,
        examples=len(given),
        unit="head",
        group=group_of(model, attention),
        signed=False,
    )


def slope(model: Pretrained, example: Example, mask_name: str, shape: torch.Size) -> tuple[float, torch.Tensor]:
    """The metric of one example, and its gradient by the mask, float64 [L H]."""
    mask = torch.ones(shape, device=model.device, requires_grad=True)
    value = value_of(example.metric, model(**example.batch, **{mask_name: mask}))
    if not value.requires_grad:
        raise InputError("metric: its number carries no gradient; compute it with torch, without .item() or argmax")
    gradient = torch.autograd.grad(value, mask, allow_unused=True)[0]
    found = torch.zeros(shape) if gradient is None else gradient
    return value.item(), found.to("cpu", torch.float64)
