"""Numbers by place, and how far apart two of them are."""

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

Values = dict[str, Tensor]  # place -> what is computed there, in the order of the computation

LOGITS = (
    "logits",
    "prediction_logits",
    "seq_relationship_logits",
    "sop_logits",
    "start_logits",
    "end_logits",
    "mc_logits",
    "cls_logits",
    "distillation_logits",
)


def head_values(output: Any) -> Values:
    """The logits in an output, ours or transformers', by place."""
    found = {field: getattr(output, field, None) for field in LOGITS}
    return {f"head: {field}": x for field, x in found.items() if x is not None}


def difference(ours: Tensor, theirs: Tensor, real: Tensor | None) -> float:
    """The largest |ours - theirs| of all vectors, each divided by the vector's largest |theirs|, or by 1."""
    ours, theirs = at_tokens(ours, real), at_tokens(theirs, real)  # [N ...]
    size = theirs.abs().amax(-1, keepdim=True).clamp(min=1)
    return ((ours - theirs).abs() / size).max().item()


def at_tokens(x: Tensor, real: Tensor | None) -> Tensor:
    """What is about tokens, not about padding. real bool [B T]; None where there is no padding."""
    return x if real is None else x[real]


def worst(differences: Iterable[float]) -> float:
    """The largest difference; NaN is larger than any number."""
    return max(differences, key=badness)


def badness(x: float) -> tuple[bool, float]:
    """What to sort differences by."""
    return math.isnan(x), x
