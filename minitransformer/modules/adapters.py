"""A few new weights beside a linear layer, to train instead of its own.

Each class *is* a linear layer that has taken over the weights of another, so their names stay what they were.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoRALinear(nn.Linear):
    """W x + b + (alpha/r) B A drop(x): the change of W has rank r. Hu et al. 2021, "LoRA", eq. 3.

    A is [r in], B is [out r]; B begins as zeros, so at first nothing changes. `rank_stabilised`: alpha/√r in place of
    alpha/r (Kalajdzievski 2023, "rsLoRA"), so that a higher rank does not learn more slowly.
    """

    BESIDE: ClassVar = ("lora_a", "lora_b")

    def __init__(
        self, linear: nn.Linear, *, rank: int, alpha: float, dropout: float = 0.0, rank_stabilised: bool = False
    ) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        _take_over(self, linear)
        self.rank, self.alpha, self.dropout, self.rank_stabilised = rank, alpha, dropout, rank_stabilised
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        self.unmerged: Tensor | None = None  # the weight as it was before the merge
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    @property
    def scale(self) -> float:
        """By what B A x is multiplied."""
        return self.alpha / divisor(self.rank, self.rank_stabilised)

    def forward(self, x: Tensor) -> Tensor:
        """x [... in] -> [... out]."""
        y = F.linear(x, self.weight, self.bias)  # [... out]
        if self.unmerged is not None:
            return y
        x = F.dropout(x, self.dropout, self.training)
        return y + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def changed_weight(self) -> Tensor:
        """W + (alpha/r) B A, computed in float64: [out in]. It is the weight itself where that is merged already."""
        if self.unmerged is not None:
            return self.weight.detach()
        change = self.scale * (self.lora_b.detach().double() @ self.lora_a.detach().double())  # [out in]
        return (self.weight.detach().double() + change).to(self.weight.dtype)

    def merge(self) -> None:
        """Put the change into the weight: the layer then costs what it cost before, and A and B do not train."""
        if self.unmerged is None:
            changed, unmerged = self.changed_weight(), self.weight.detach().clone()
            with torch.no_grad():
                self.weight.copy_(changed)
            self.unmerged = unmerged

    def unmerge(self) -> None:
        """Put the weight back as it was, to the last bit."""
        if self.unmerged is not None:
            with torch.no_grad():
                self.weight.copy_(self.unmerged)
            self.unmerged = None


class AdapterLinear(nn.Linear):
    """y + up(activation(down(y))), where y = W x + b: a bottleneck behind a sub-layer's last projection.

    Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", figure 2. `up` begins as zeros, so at first
    nothing changes.
    """

    BESIDE: ClassVar = ("adapter_down.weight", "adapter_down.bias", "adapter_up.weight", "adapter_up.bias")
    ACTIVATIONS: ClassVar[dict[str, Callable[[Tensor], Tensor]]] = {"gelu": F.gelu, "relu": F.relu}

    def __init__(self, linear: nn.Linear, *, size: int, activation: str = "gelu") -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        _take_over(self, linear)
        self.size, self.activation = size, activation
        self.adapter_down = nn.Linear(linear.out_features, size).to(linear.weight)
        self.adapter_up = nn.Linear(size, linear.out_features).to(linear.weight)
        nn.init.normal_(self.adapter_down.weight, std=0.01)
        for zeros in (self.adapter_down.bias, self.adapter_up.weight, self.adapter_up.bias):
            nn.init.zeros_(zeros)

    def forward(self, x: Tensor) -> Tensor:
        """x [... in] -> [... out]."""
        y = F.linear(x, self.weight, self.bias)  # [... out]
        inner = self.ACTIVATIONS[self.activation](self.adapter_down(y))  # [... size]
        return y + self.adapter_up(inner)


def divisor(rank: int, rank_stabilised: bool) -> float:
    """By what alpha is divided."""
    return math.sqrt(rank) if rank_stabilised else rank


def effective_weight(linear: nn.Linear) -> Tensor:
    """The matrix that a linear layer multiplies with, [out in], its LoRA added; with gradients."""
    if isinstance(linear, LoRALinear) and linear.unmerged is None:
        return linear.weight + linear.scale * (linear.lora_b @ linear.lora_a)
    return linear.weight


def plain_linear(layer: nn.Linear) -> nn.Linear:
    """A linear layer with the weights that `layer` has now, and nothing beside them."""
    linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    _take_over(linear, layer)
    return linear


def _take_over(new: nn.Linear, old: nn.Linear) -> None:
    """Give `new` the parameters of `old`: the very same ones, not copies."""
    new.weight, new.bias = old.weight, old.bias
    new.train(old.training)
