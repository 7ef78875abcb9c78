"""Keys and values that were computed already, so that a decoder reads each token once."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from minitransformer.errors import InputError


@dataclass
class KeysAndValues:
    """What one attention module keeps: k and v, [B G S E]; None before the first step."""

    k: Tensor | None = None
    v: Tensor | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put T new keys and values behind the S kept ones, and return all S + T."""
        if self.k is not None and self.v is not None:
            k, v = torch.cat((self.k, k), dim=2), torch.cat((self.v, v), dim=2)  # [B G S+T E]
        self.k, self.v = k, v
        return k, v


@dataclass
class KVCache:
    """What a decoder keeps from step to step. Plain data: make one, pass it to each call, look into it.

    cache = KVCache.empty(layers=12)
    out = model(input_ids=prompt, cache=cache)
    out = model(input_ids=next_token, cache=cache)
    """

    self_attn: list[KeysAndValues] = field(default_factory=list)  # one for each layer
    cross_attn: list[KeysAndValues] = field(default_factory=list)

    @classmethod
    def empty(cls, layers: int) -> "KVCache":
        """A cache before the first step."""
        return cls([KeysAndValues() for _ in range(layers)], [KeysAndValues() for _ in range(layers)])

    @property
    def length(self) -> int:
        """S, how many tokens the decoder has read."""
        k = self.self_attn[0].k if self.self_attn else None
        return 0 if k is None else k.shape[2]

    def check(self, layers: int, batch: int) -> None:
        """Raise an InputError unless this is the cache of a decoder of `layers` blocks that reads `batch` texts."""
        if not len(self.self_attn) == len(self.cross_attn) == layers:
            raise InputError(
                f"cache: got {len(self.self_attn)} layers, expected {layers}; try KVCache.empty(layers={layers})"
            )
        k = self.self_attn[0].k
        if k is not None and k.shape[0] != batch:
            raise InputError(f"cache: got {k.shape[0]} texts, expected {batch}; make a new cache for each batch")
