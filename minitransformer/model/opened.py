"""The formulas that look inside themselves: those of `ops/by_hand.py`, line by line, handing out parts on the way.

`capture.py` puts them where a module's own formula was, while someone looks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.errors import InputError
from minitransformer.modules import LayerNorm, MultiHeadAttention, RMSNorm
from minitransformer.modules.adapters import AdapterLinear, LoRALinear, effective_weight
from minitransformer.ops import Book

Visit = Callable[[Tensor], Tensor]  # sees a point's tensor, gives it back or another in its place
Visits = dict[str, list[Visit]]


def _shown(visits: Visits, part: str, x: Tensor) -> Tensor:
    """What the visitors of that part make of it."""
    for visit in tuple(visits.get(part, ())):
        x = visit(x)
    return x


@dataclass(frozen=True)
class OpenAttention:
    """`by_hand.attention`, on the kernels of the module's own book."""

    visits: Visits
    book: Book

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        scale: float,
        dropout: float = 0.0,
    ) -> Tensor:
        """q [B H T E], k and v [B G S E] -> [B H T E]. Shows "rot_q", "rot_k", "scores", "pattern"."""
        q, k = self.of_tokens("rot_q", q), self.of_tokens("rot_k", k)  # turned already, where positions are rotary
        k, v = (self.book.for_each_query_head(x, q.shape[1]) for x in (k, v))  # [B H S E]
        scores = self.book.attention_scores(q, k, scale=scale, bias=bias)  # [B H T S]
        masked = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        pattern = self.book.softmax(_shown(self.visits, "scores", masked))  # [B H T S]
        return self.book.drop(_shown(self.visits, "pattern", pattern), dropout) @ v  # [B H T E]

    def of_tokens(self, part: str, x: Tensor) -> Tensor:
        """Shown with the heads of a token side by side: [B H T E] as [B T H E]."""
        if not self.visits.get(part):
            return x
        return _shown(self.visits, part, x.transpose(1, 2)).transpose(1, 2)


@dataclass(frozen=True)
class OpenLayerNorm:
    """`by_hand.layer_norm`."""

    visits: Visits
    book: Book

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """x [... D] -> [... D]. Shows "scale", "normalized"."""
        centred = x - x.mean(-1, keepdim=True)
        scale = _shown(self.visits, "scale", (centred.square().mean(-1, keepdim=True) + eps).sqrt())  # [... 1]
        return _shown(self.visits, "normalized", centred / scale) * weight + bias


@dataclass(frozen=True)
class OpenRMSNorm:
    """`by_hand.rms_norm`."""

    visits: Visits
    book: Book

    def __call__(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [... D] -> [... D]. Shows "scale", "normalized"."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = _shown(self.visits, "scale", (wide.square().mean(-1, keepdim=True) + eps).sqrt())  # [... 1]
        return _shown(self.visits, "normalized", (wide / scale).to(x.dtype)) * weight


@dataclass(frozen=True, eq=False)
class OpenProjection:
    """An output projection, taken apart by heads: z W_O of each, which add up to it."""

    visits: list[Visit]
    d_head: int

    def __call__(self, o: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """A forward hook of `o`: what entered it [B T H·E], what left it [B T D] -> [B T D]. Shows [B T H D]."""
        if not isinstance(o, nn.Linear) or isinstance(o, AdapterLinear):
            raise InputError(
                "hook_result: what stands behind these heads is no matrix, so that their results do not add up; "
                "see hook_z, before it"
            )
        if isinstance(o, LoRALinear) and o.unmerged is None and o.training and o.dropout:
            raise InputError("hook_result: LoRA's dropout is on, and is no part of a head's result; call model.eval()")
        z, weight = (x.unflatten(-1, (-1, self.d_head)) for x in (args[0], effective_weight(o)))  # [B T H E], [D H E]
        result = torch.einsum("bthe,dhe->bthd", z, weight)  # [B T H D]
        before = result.detach().sum(-2)  # [B T D]
        for visit in tuple(self.visits):
            result = visit(result)
        # The output is changed by what the results are changed by: where they are not, by nothing, to the last bit.
        # Its gradient goes through them.
        bias = 0 if o.bias is None else (o.bias - o.bias.detach()).to(output.dtype)
        return output.detach() + (result.sum(-2) - before) + bias


# A module's kind -> the formula of its book that is opened, and what takes its place.
OPENED: dict[type[nn.Module], tuple[str, Any]] = {
    MultiHeadAttention: ("attention", OpenAttention),
    LayerNorm: ("layer_norm", OpenLayerNorm),
    RMSNorm: ("rms_norm", OpenRMSNorm),
}
