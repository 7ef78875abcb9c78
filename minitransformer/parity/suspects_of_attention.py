"""Suspects: who attends to whom, with how many heads, and how sharply."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from math import gcd
from typing import Any

from torch import Tensor

from minitransformer.modules.masks import self_attention_mask
from minitransformer.ops import BOOKS
from minitransformer.parity.changes import Changes, Weights, having, set_all
from minitransformer.parity.parts import Part

WINDOWS = (*range(1, 17), *(2**n + more for n in range(5, 13) for more in (-1, 0, 1)))


def score_scale(part: Part, weights: Weights) -> Changes:
    """The factor on the attention scores."""
    for path, module in having(part, "heads").items():
        d_model = module.q.in_features
        for says, scale in (("1/√E", module.d_head**-0.5), ("1", 1.0), ("1/√D", d_model**-0.5)):
            claim = f"the scale of {path}'s scores: ours is {module.scale:.4g}, transformers' numbers fit {says}"
            yield claim, partial(set_all, [module], "scale", scale)


def heads(part: Part, weights: Weights) -> Changes:
    """The number of heads."""
    for path, module in having(part, "heads").items():
        queries, keys = module.q.out_features, module.k.out_features
        for d_head in (n for n in range(1, keys + 1) if gcd(queries, keys) % n == 0):
            ours, count = queries // module.d_head, queries // d_head
            claim = f"the heads of {path}: ours has {ours}, transformers' numbers fit {count}"
            yield claim, partial(vars(module).update, heads=count, d_head=d_head, scale=d_head**-0.5)


def kv_groups(part: Part, weights: Weights) -> Changes:
    """Which queries' heads a head of keys and values serves, where there are fewer of those."""
    for path, module in having(part, "heads").items():
        groups = module.k.out_features // module.d_head
        size = module.q.out_features // module.k.out_features
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            f"h // {size}": lambda x, size=size: x.repeat_interleave(size, dim=1),  # type: ignore[misc]
            f"h % {groups}": lambda x, size=size: x.repeat(1, size, 1, 1),  # type: ignore[misc]
        }
        for says, spread in ways.items() if size > 1 else ():
            book = replace(module.book, attention=partial(_attention, spread))
            claim = f"the groups of {path}: in transformers' numbers, head h of the queries reads {says} of the keys"
            yield claim, partial(set_all, [module], "book", book)


def mask(part: Part, weights: Weights) -> Changes:
    """Which keys a query may attend to."""
    given = part.reads.get("attention_mask")  # [B T]
    length = part.expected.shape[1] if "mask" in part.kwargs else 0
    device = part.expected.device
    for padding, window in product((given, None), (None, *WINDOWS)) if length else ():
        for causal in (True, False) if window is None else (True,) * (window < length):
            right = self_attention_mask(padding, causal=causal, queries=length, past=0, device=device, window=window)
            kind = f"{'causal' if causal else 'bidirectional'} attention with{'out' * (padding is None)} padding"
            near = "" if window is None else f" in a window of {window}"
            yield f"the mask: transformers' numbers fit {kind}{near}", partial(part.kwargs.update, mask=right)
    memory = part.kwargs.get("memory")
    if memory is not None:
        yield (
            "the mask of cross-attention: transformers' numbers fit none",
            partial(part.kwargs.update, memory_mask=None),
        )


def _attention(spread: Callable[[Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    return BOOKS["by_hand"].attention(q, spread(k), spread(v), **options)
