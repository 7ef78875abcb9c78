"""The parts of our model, each with what transformers puts into it: a fault shows in its own part, and nowhere else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.errors import InputError
from minitransformer.model import Transformer
from minitransformer.model.heads import States
from minitransformer.modules.masks import self_attention_mask
from minitransformer.ops import BOOKS
from minitransformer.parity.ours import borrowed, open_book, takeable, the_stack
from minitransformer.parity.values import Values, difference

Read = Callable[[Any], Tensor]


def _all_of_it(output: Tensor) -> Tensor:
    return output


@dataclass
class Part:
    """One part, what goes into it, and what should come out."""

    place: str
    path: str  # of the module in our model
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    read: Read  # from the module's output to the numbers to compare
    expected: Tensor  # transformers' numbers
    batch: Mapping[str, Tensor]  # what the whole model was given, [B T]

    @property
    def real(self) -> Tensor:
        """True for a token, False for padding. [B T]."""
        return self.batch["attention_mask"] != 0

    def difference(self) -> float:
        """How far our numbers are from transformers'."""
        return difference(self.place, self.read(self.module(*self.args, **self.kwargs)), self.expected, self.real)

    def alone(self) -> dict[str, float]:
        """The same in float64, with each book."""
        found = {}
        for book in BOOKS:
            with borrowed(self.module):
                open_book(self.module.double(), book)
                try:
                    found[book] = self.difference()
                except RuntimeError as error:  # such as a float32 tensor that someone has put there
                    raise InputError(f"{self.place}: it does not run in float64: {error}") from error
        return found

    def own(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the whole model's weights that belong to this part, by their names within it."""
        start = f"{self.path}."
        return {name.removeprefix(start): x for name, x in weights.items() if name.startswith(start)}


def parts(model: Transformer, batch: Mapping[str, Tensor], theirs: Values) -> list[Part]:
    """Every part, fed with transformers' numbers, which are float64. batch [B T] or [B choices T]."""
    name, stack = the_stack(model)
    flat = {key: x.flatten(0, -2) for key, x in batch.items()}  # [B T]
    found: list[Part] = []

    def add(place: str, path: str, *args: Any, named: dict[str, Any] | None = None, read: Read = _all_of_it) -> Tensor:
        found.append(Part(place, path, _module(model, path), args, dict(named or {}), read, theirs[place], flat))
        return theirs[place]

    x = add("embedding", "embed", flat["input_ids"], takeable(model, flat).get("token_type_ids"))  # [B T D]
    mask = self_attention_mask(
        flat["attention_mask"], causal=stack.config.causal, queries=x.shape[1], past=0, device=x.device
    )
    for i in range(len(stack.layers)):
        x = add(f"block {i}", f"{name}.layers.{i}", x, named={"mask": mask})
    if "final norm" in theirs:
        x = add("final norm", f"{name}.final_norm", x)
    if "pooler" in theirs:
        add("pooler", "pooler", x[:, 0], read=torch.tanh)
    states = States(
        hidden=x,
        pooled=theirs.get("pooler"),
        table=model.embed.tokens.weight.to(x.dtype),
        ids=flat["input_ids"],
        attention_mask=flat["attention_mask"],
        choices=batch["input_ids"].shape[1] if batch["input_ids"].ndim == 3 else 1,
    )
    for place in theirs:
        if place.startswith("head: "):
            add(place, "head", states, read=itemgetter(place.removeprefix("head: ")))
    return found


def _module(model: Transformer, path: str) -> nn.Module:
    """The module there; the identity, where someone took it away."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return nn.Identity()
