"""The formulas of `by_hand.py` on torch's own kernels: same names, same signatures, same numbers, faster.

What a kernel does not change (the scores, the sinusoids) is taken from `by_hand.py` as it stands.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer.ops.by_hand import attention_scores, sinusoidal

__all__ = [
    "attention",
    "attention_scores",
    "attention_weights",
    "cross_entropy",
    "drop",
    "gelu",
    "gelu_tanh",
    "layer_norm",
    "relu",
    "rms_norm",
    "silu",
    "sinusoidal",
    "softmax",
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
    if bias is not None:  # the kernel takes one or the other: forbidden keys become -∞ in the bias
        mask = bias if mask is None else bias.masked_fill(~mask, -math.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)


def attention_weights(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """See `by_hand.attention_weights`."""
    if mask is None:
        return softmax(scores)
    return softmax(scores.masked_fill(~mask, -math.inf))


def softmax(x: Tensor) -> Tensor:
    """See `by_hand.softmax`. The kernel gives NaN for a row of -∞; zeros take its place."""
    nothing = (x == -math.inf).all(-1, keepdim=True)
    return torch.softmax(x.masked_fill(nothing, 0), -1).masked_fill(nothing, 0)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """See `by_hand.layer_norm`."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


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


def drop(x: Tensor, p: float) -> Tensor:
    """See `by_hand.drop`."""
    return F.dropout(x, p) if p else x


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    """See `by_hand.cross_entropy`."""
    total = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    return total, (labels != ignore_index).sum()
