"""Numbers by place, and how far apart two of them are."""

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

Values = dict[str, Tensor]  # place -> what is computed there, in the order of the computation

LOGITS = ("logits", "prediction_logits", "seq_relationship_logits", "start_logits", "end_logits")
ONE_PER_TOKEN = ("head: start_logits", "head: end_logits")  # [B T]; what else is about tokens has three dimensions


def head_values(output: Any) -> Values:
    """The logits in an output, ours or transformers', by place."""
    found = {field: getattr(output, field, None) for field in LOGITS}
    return {f"head: {field}": x for field, x in found.items() if x is not None}


def difference(place: str, ours: Tensor, theirs: Tensor, real: Tensor) -> float:
    """The largest |ours - theirs| of all tokens, each divided by the token's largest |theirs|, or by 1. real [B T]."""
    ours, theirs = at_tokens(place, ours, real), at_tokens(place, theirs, real)  # [N ...]
    size = theirs.abs().amax(-1, keepdim=True).clamp(min=1)
    return ((ours - theirs).abs() / size).max().item()


def at_tokens(place: str, x: Tensor, real: Tensor) -> Tensor:
    """What is about tokens, not about padding."""
    return x[real] if x.ndim == 3 or place in ONE_PER_TOKEN else x


def worst(differences: Iterable[float]) -> float:
    """The largest difference; NaN is larger than any number."""
    return max(differences, key=badness)


def badness(x: float) -> tuple[bool, float]:
    """What to sort differences by."""
    return math.isnan(x), x
