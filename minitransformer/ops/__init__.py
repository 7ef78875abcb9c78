"""The mathematics, twice: `by_hand` to be read, `fused` to be fast. A `Book` is either, as a value.

Modules call their formulas through the book they hold, so a model can change books (`model.use("by_hand")`) and one
formula of one module can be replaced to look inside it, without a line of theirs changing.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from types import ModuleType

from torch import Tensor

from minitransformer.ops import by_hand, fused

__all__ = ["BOOKS", "Book"]


@dataclass(frozen=True)
class Book:
    """One name for each formula. What each computes is said in `by_hand.py`."""

    attention: Callable[..., Tensor]
    attention_scores: Callable[..., Tensor]
    attention_weights: Callable[..., Tensor]
    for_each_query_head: Callable[..., Tensor]
    softmax: Callable[..., Tensor]
    layer_norm: Callable[..., Tensor]
    rms_norm: Callable[..., Tensor]
    relu: Callable[..., Tensor]
    gelu: Callable[..., Tensor]
    gelu_tanh: Callable[..., Tensor]
    silu: Callable[..., Tensor]
    tanh: Callable[..., Tensor]
    sinusoidal: Callable[..., Tensor]
    sinusoidal_halves: Callable[..., Tensor]
    rotary_table: Callable[..., tuple[Tensor, Tensor]]
    rotary: Callable[..., Tensor]
    relative_buckets: Callable[..., Tensor]
    patches: Callable[..., Tensor]
    drop: Callable[..., Tensor]
    cross_entropy: Callable[..., tuple[Tensor, Tensor]]


def _book(page: ModuleType) -> Book:
    return Book(**{field.name: getattr(page, field.name) for field in fields(Book)})


BOOKS = {"fused": _book(fused), "by_hand": _book(by_hand)}
