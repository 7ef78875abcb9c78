"""Who may look at whom. The only maker of masks.

A mask is a bool tensor that broadcasts to [B H T S]; True means: this query may attend to that key. In the drawings
rows are queries, columns are keys, `x` is True and `.` is False.
"""

import torch
from torch import Tensor

from minitransformer.errors import InputError


def padding_mask(attention_mask: Tensor | None) -> Tensor | None:
    """Every query sees every key that is not padding. attention_mask [B S] (1: token, 0: padding) -> [B 1 1 S].

        the cat sat <pad>      x x x .

    None where nothing is padded: the same numbers, and less work for the kernel.
    """
    if attention_mask is None:
        return None
    keep = attention_mask != 0  # [B S]
    if keep.device.type == "cpu" and bool(keep.all()):
        return None
    return keep[:, None, None, :]


def causal_mask(queries: int, keys: int, device: torch.device, window: int | None = None) -> Tensor | None:
    """A query sees itself and what came before. -> [1 1 T S]. The last query stands at the last key:

        4 queries, 4 keys    x . . .        2 queries after 2 cached keys    x x x .
                             x x . .                                         x x x x
                             x x x .
                             x x x x

    With a window it sees only so many keys, itself included (Jiang et al. 2023, "Mistral 7B", section 2):

        a window of 2        x . . .
                             x x . .
                             . x x .
                             . . x x

    None where a single query sees all.
    """
    window = keys if window is None else min(window, keys)
    if queries == 1 and window == keys:
        return None
    past = keys - queries
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return mask.tril(past).triu(past - window + 1)[None, None]


def both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Allowed by one mask and by the other; None allows everything.

    causal and padding on the left     . . . .
                                       . x . .
                                       . x x .
                                       . x x x
    """
    if first is None or second is None:
        return second if first is None else first
    return first & second


def self_attention_mask(
    attention_mask: Tensor | None,
    *,
    causal: bool,
    queries: int,
    past: int,
    device: torch.device,
    window: int | None = None,
) -> Tensor | None:
    """The mask of a stack's self-attention: T queries after `past` cached keys. -> [B|1 1 T|1 S] or None."""
    keys = past + queries
    causality = causal_mask(queries, keys, device, window) if causal else None
    return both(causality, padding_mask(attention_mask))


def check_attention_mask(name: str, attention_mask: Tensor | None, batch: int, keys: int) -> None:
    """Raise an InputError unless the mask is 0 or 1 for each key: [B S]."""
    if attention_mask is not None and list(attention_mask.shape) != [batch, keys]:
        raise InputError(
            f"{name}: got shape {list(attention_mask.shape)}, expected {[batch, keys]}: 1 for a token, 0 for padding, "
            f"tokens of the cache included"
        )
