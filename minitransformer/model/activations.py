"""What was captured in one pass, found by name or by the short forms that people type."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from minitransformer.errors import InputError
from minitransformer.model.points import canonical, place_in, stacks

# What of a block is no part of its attention: the name behind `hook_` -> where it is.
OF_BLOCK = ("resid_pre", "resid_mid", "resid_post", "normalized_resid_post", "attn_out", "mlp_out")
OF_CROSS = ("cross_attn_out", "resid_mid_cross")
OF_MLP = ("pre", "pre_linear", "post")


class ActivationCache(Mapping[str, Tensor]):
    """The points of one pass. `cache["blocks.3.attn.hook_pattern"]`, or shorter `cache["pattern", 3]`.

    `cache["resid_post", -1]` is the last block's; `cache["scale", 0, "ln1"]` and `cache["q", 1, "cross_attn"]` say of
    which part. Of two stacks, `cache.encoder["pattern", 0]` and `cache.decoder["pattern", 0, "cross_attn"]`.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor], stack: str | None = None) -> None:
        self._model, self._tensors, self._stack = model, dict(tensors), stack

    __eq__, __hash__ = object.__eq__, object.__hash__  # one cache is another only if it is the same

    def get(self, key: Any, default: Any = None) -> Any:
        """What was captured there, or the default."""
        try:
            return self[key]
        except InputError:
            return default

    def __getitem__(self, key: str | tuple[str | int, ...]) -> Tensor:
        name = canonical(self._model, key) if isinstance(key, str) else self._name(key)
        if name not in self._tensors:
            raise InputError(f"{name}: was not captured; there are {', '.join(self._some()) or 'no points'}")
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        try:
            return isinstance(key, str | tuple) and self[key] is not None
        except InputError:
            return False

    def __repr__(self) -> str:
        return f"ActivationCache of {len(self)} points, {self.nbytes / 2**20:.1f} MiB: {', '.join(self._some())}"

    @property
    def encoder(self) -> "ActivationCache":
        """The points of the encoder."""
        return self._of("encoder")

    @property
    def decoder(self) -> "ActivationCache":
        """The points of the decoder."""
        return self._of("decoder")

    @property
    def nbytes(self) -> int:
        """The memory of the tensors."""
        return sum(x.nbytes for x in self._tensors.values())

    def _of(self, side: str) -> "ActivationCache":
        if getattr(self._model, side, None) is None:
            raise InputError(f"{side}: this model has none")
        only = "blocks" in stacks(self._model)
        kept = {name: x for name, x in self._tensors.items() if only or name.startswith(f"{side}.")}
        return ActivationCache(self._model, kept, side)

    def _name(self, key: tuple[str | int, ...]) -> str:
        """("pattern", 3, "cross_attn") -> "decoder.3.cross_attn.hook_pattern"."""
        if not isinstance(key, tuple) or not 2 <= len(key) <= 3 or not isinstance(key[0], str):
            raise InputError(f'got {key!r:.60}, expected a name, (what, layer) or (what, layer, part): ("pattern", 3)')
        what, layer = key[0].removeprefix("hook_"), key[1]
        there = stacks(self._model)
        side = "blocks" if "blocks" in there else self._stack
        if side is None and (what in OF_CROSS or key[-1] == "cross_attn"):
            side = "decoder"  # only it has these
        if side is None:
            raise InputError(f"{key}: this model has two stacks; say cache.encoder[…] or cache.decoder[…]")
        layer = place_in("layer", layer, len(there[side].blocks))
        part = f"{key[2]}." if len(key) == 3 else part_of(what)
        return f"{side}.{layer}.{part}hook_{what}"

    def _some(self) -> list[str]:
        names = list(self._tensors)
        return names if len(names) <= 6 else [*names[:5], "…"]


def part_of(what: str) -> str:
    """What stands between the block and the point, where that is not said: self-attention, if there are several."""
    if what in OF_BLOCK or what in OF_CROSS:
        return ""
    return "mlp." if what in OF_MLP else "attn."
