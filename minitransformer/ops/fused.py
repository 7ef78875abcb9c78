"""The formulas of `by_hand.py` on torch's own kernels: same names, same signatures, same numbers, faster.

What no kernel computes (the scores, the positions) is taken from `by_hand.py` as it stands.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.ops.by_hand import (
    attention_scores,
    for_each_query_head,
    relative_buckets,
    rotary,
    rotary_table,
    sinusoidal,
    sinusoidal_halves,
)

__all__ = [
    "attention",
    "attention_scores",
    "attention_weights",
    "cross_entropy",
    "drop",
    "for_each_query_head",
    "gelu",
    "gelu_tanh",
    "layer_norm",
    "patches",
    "relative_buckets",
    "relu",
    "rms_norm",
    "rotary",
    "rotary_table",
    "silu",
    "sinusoidal",
    "sinusoidal_halves",
    "softmax",
    "tanh",
]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """See `by_hand.attention`. The kernel never stores the [B H T S] weights."""
    k, v = for_each_query_head(k, q.shape[1]), for_each_query_head(v, q.shape[1])  # [B H S E]
    if dropout and q.device.type == "cpu":  # no kernel: torch would take the same steps, with its slower dropout
        weights = attention_weights(attention_scores(q, k, scale=scale, bias=bias), mask)  # [B H T S]
        return drop(weights, dropout) @ v
    if bias is None or mask is None:
        mask = bias if mask is None else mask
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    # The kernel takes one or the other: forbidden keys become -∞ in the bias, but for queries that have no others,
    # for which it would give NaN.
    nothing = ~mask.any(-1, keepdim=True)  # [B|1 1 T|1 1]
    mask = bias.masked_fill(~(mask | nothing), -math.inf)  # [B|1 H T S]
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    return z.masked_fill(nothing, 0)


def attention_weights(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """See `by_hand.attention_weights`."""
    if mask is None:
        return softmax(scores)
    return softmax(scores.masked_fill(~mask, -math.inf))


def softmax(x: Tensor) -> Tensor:
    """See `by_hand.softmax`. The kernel gives NaN for a row of -∞; zeros take its place."""
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        weights = torch.softmax(x, -1)
        if not weights.detach()[..., :1].isnan().any():  # as almost always; a row of -∞ is NaN from its first number on
            return weights
    nothing = x.detach().amax(-1, keepdim=True) == -math.inf  # [... 1]
    return torch.softmax(x.masked_fill(nothing, 0), -1).masked_fill(nothing, 0)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See `by_hand.layer_norm`."""
    return torch.layer_norm(x, weight.shape, weight, bias, eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `by_hand.rms_norm`."""
    return F.rms_norm(x, weight.shape, weight, eps)


def relu(x: Tensor) -> Tensor:
    """See `by_hand.relu`."""
    return F.relu(x)


def gelu(x: Tensor) -> Tensor:
    """See `by_hand.gelu`."""
    return F.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """See `by_hand.gelu_tanh`."""
    return F.gelu(x, approximate="tanh")


def silu(x: Tensor) -> Tensor:
    """See `by_hand.silu`."""
    return F.silu(x)


def tanh(x: Tensor) -> Tensor:
    """See `by_hand.tanh`."""
    return torch.tanh(x)


def patches(images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `by_hand.patches`. A convolution whose kernel moves by its own size."""
    stride = [int(size) for size in weight.shape[2:]]
    return F.conv2d(images, weight, bias, stride=stride).flatten(2).transpose(1, 2)  # [B N D]


def drop(x: Tensor, p: float) -> Tensor:
    """See `by_hand.drop`. Most of its time on a CPU is drawing: there 64 random bits decide about four numbers.

    So p is rounded to a multiple of 2⁻¹⁶, and the mean kept for that.
    """
    if p in (0, 1) or x.device.type != "cpu":
        return F.dropout(x, p) if p else x
    draws = torch.empty(math.ceil(x.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    numbers = draws.view(torch.int16)[: x.numel()].view(x.shape)  # each from -2¹⁵ to 2¹⁵ - 1
    dropped = min(round(p * 2**16), 2**16 - 1)  # of these 2¹⁶ numbers, so many zero
    kept = (numbers >= dropped - 2**15).to(x.dtype)
    return x * kept.mul_(2**16 / (2**16 - dropped))


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = -100,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """See `by_hand.cross_entropy`."""
    total = F.cross_entropy(
        logits, labels, weights, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="sum"
    )
    counts = labels != ignore_index  # [N]
    return total, counts.sum() if weights is None else weights[labels[counts]].sum()
