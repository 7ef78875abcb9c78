"""How far two things are from each other: two patterns, two streams, two models' weights. All are 0 for equals."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minitransformer.model import Transformer
from minitransformer.modules.adapters import effective_weight

OF_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)")


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """The Jensen-Shannon divergence in bits: 0 for equal distributions, 1 for those without common ground.

    (KL(p ‖ m) + KL(q ‖ m)) / 2 with m = (p + q) / 2. p, q [... S] -> [...]; 0 where both are all zeros. Lin 1991.
    """
    p, q = p.double(), q.double()
    middle = ((p + q) / 2).clamp(min=torch.finfo(p.dtype).tiny)
    nats = (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).sum(-1) / 2
    return (nats / torch.log(torch.tensor(2.0, dtype=p.dtype))).clamp(0, 1)


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """1 - cos of the angle between x and y, as ‖x/‖x‖ - y/‖y‖‖² / 2: exact for small angles. [... D] -> [...]."""
    x, y = (v.double() / v.double().norm(dim=-1, keepdim=True).clamp(min=1e-300) for v in (x, y))
    return (x - y).square().sum(-1) / 2


def cka_distance(x: Tensor, y: Tensor) -> float:
    """1 - linear CKA of N vectors each: 0 if one set is the other turned and scaled, 1 if they have nothing in common.

    CKA = ‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖), the columns centred. x, y [N D]. Kornblith et al. 2019, eq. 1 to 3.
    """
    x, y = (v.double() - v.double().mean(0) for v in (x, y))
    both, own, other = (float((a.T @ b).square().sum()) for a, b in ((y, x), (x, x), (y, y)))
    if not own or not other:  # all tokens have the same vector
        return float(own != other)
    return max(0.0, 1 - both / math.sqrt(own * other))


@dataclass(frozen=True)
class WeightChange:
    """How much a matrix changed from A to B."""

    name: str  # "encoder.layers.3.self_attn.q"
    stack: str | None  # "encoder"; None for what is in no layer
    layer: int | None
    part: str  # "self_attn.q"
    change: float | None  # ‖A - B‖ / ‖A‖ (Frobenius); None where only one model has it, or in another shape


def weight_changes(a: Transformer, b: Transformer) -> list[WeightChange]:
    """The relative change of each matrix, LoRA counted in; where layers are shared, each once."""
    of_a, of_b = dict(matrices(a)), dict(matrices(b))
    found = []
    for name in dict.fromkeys((*of_a, *of_b)):
        within = OF_LAYER.fullmatch(name)
        stack, layer, part = (within[1], int(within[2]), within[3]) if within else (None, None, name)
        found.append(WeightChange(name, stack, layer, part, relative_change(of_a.get(name), of_b.get(name))))
    return found


def matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every matrix that the model multiplies with, or looks up, by its name without ".weight"."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            yield name, effective_weight(module)
        else:
            own = module.named_parameters(recurse=False)
            yield from (
                (f"{name}.{kind}".removesuffix(".weight").removeprefix("."), x) for kind, x in own if x.ndim > 1
            )


def relative_change(a: Tensor | None, b: Tensor | None) -> float | None:
    """‖A - B‖ / ‖A‖."""
    if a is None or b is None or a.shape != b.shape:
        return None
    a, b = a.detach().float(), b.detach().float().to(a.device)
    far = (a - b).norm().item()
    return far / a.norm().item() if far and a.any() else float("inf") if far else 0.0
