"""Keys and values that were computed already, so that a decoder reads each token once."""

from dataclasses import dataclass, field

from torch import Tensor

from minitransformer.errors import InputError


@dataclass
class KeysAndValues:
    """What one attention module keeps: room for C keys and values, [B G C E], of which the first `length` are there.

    B texts, G heads of keys, E wide.

    The room is filled in place: a step writes its own keys and copies none of those before; when it is full, it
    doubles. In place also means that gradients cannot flow through it: train without a cache.
    """

    keys: Tensor | None = None  # [B G C E]; None before the first step
    values: Tensor | None = None
    length: int = 0  # S, how many of the C places are filled
    room: int = 0  # C at the start, if more than the first step needs

    @property
    def k(self) -> Tensor | None:
        """The keys that are there: [B G S E]."""
        return None if self.keys is None else self.keys[:, :, : self.length]

    @property
    def v(self) -> Tensor | None:
        """The values that are there: [B G S E]."""
        return None if self.values is None else self.values[:, :, : self.length]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put T new keys and values behind the S kept ones, and return all S + T."""
        start, end = self.length, self.length + k.shape[2]
        if self.keys is None or self.values is None or end > self.keys.shape[2]:
            room = max(end, self.room if self.keys is None else 2 * self.keys.shape[2])
            self.keys, self.values = _moved(self.k, k, room), _moved(self.v, v, room)  # [B G C E]
        self.keys[:, :, start:end] = k
        self.values[:, :, start:end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]  # [B G S+T E]

    def select(self, rows: Tensor) -> None:
        """Keep the texts `rows`, int [B'], in this order; a text may be kept several times, or not at all."""
        if self.keys is None or self.values is None:
            return
        room = self.keys.shape[2]
        k, v = self.keys[:, :, : self.length][rows], self.values[:, :, : self.length][rows]  # [B' G S E]
        if len(rows) == len(self.keys):  # as in each step of a beam search: the room stays
            self.keys[:, :, : self.length], self.values[:, :, : self.length] = k, v
        else:
            self.keys, self.values = _moved(k, k, room), _moved(v, v, room)


def _moved(kept: Tensor | None, new: Tensor, room: int) -> Tensor:
    """Room for keys or values like `new`, with the kept ones in its first places. -> [B G C E]."""
    moved = new.new_empty(*new.shape[:2], room, new.shape[3])
    if kept is not None:
        moved[:, :, : kept.shape[2]] = kept
    return moved


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
    def empty(cls, layers: int, room: int = 0) -> "KVCache":
        """A cache before the first step. `room`: how many tokens it is expected to hold; it grows if need be."""
        return cls([KeysAndValues(room=room) for _ in range(layers)], [KeysAndValues() for _ in range(layers)])

    @property
    def length(self) -> int:
        """S, how many tokens the decoder has read."""
        return self.self_attn[0].length if self.self_attn else 0

    def select(self, rows: Tensor) -> None:
        """Keep the texts `rows`, int [B'], in this order: a beam search goes on with some beams and drops others."""
        for kept in (*self.self_attn, *self.cross_attn):
            kept.select(rows)

    def check(self, layers: int, batch: int) -> None:
        """Raise an InputError unless this is the cache of a decoder of `layers` blocks that reads `batch` texts."""
        if not len(self.self_attn) == len(self.cross_attn) == layers:
            raise InputError(
                f"cache: got {len(self.self_attn)} layers, expected {layers}; try KVCache.empty(layers={layers})"
            )
        keys = self.self_attn[0].keys
        if keys is not None and keys.shape[0] != batch:
            raise InputError(f"cache: got {keys.shape[0]} texts, expected {batch}; make a new cache for each batch")
