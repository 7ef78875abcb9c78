"""Which input tokens reach a token of the last layer through all layers' attention: rollout and flow.

Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.images import Image
from minitransformer.lens import figures
from minitransformer.lens.attention import attention
from minitransformer.lens.result import Result
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import GridTab

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minitransformer.pretrained import Pretrained

MOST_WORK = 2_000_000  # weights × pairs of tokens of a flow: half a minute
SOURCES = 3  # of each token, in the table


@dataclass(frozen=True, eq=False)
class StackRollout:
    """What reaches each token of one stack. L layers, T tokens."""

    name: str  # "attention", "encoder", "decoder"
    tokens: tuple[str, ...]
    layers: Tensor  # [L T T]: one layer's attention, the mean of its heads, with the residual stream
    reached: Tensor  # [L T T]: from each token after that layer to each input token. Of a flow: [1 T T], the last layer


@dataclass(frozen=True, eq=False)
class Rollout(Result):
    """From each token after a layer to each token of the input: how much of the one comes from the other."""

    stacks: tuple[StackRollout, ...]
    residual: float
    method: str = "rollout"  # or "flow"

    @property
    def title(self) -> str:
        """The method and its setting."""
        return f"Attention {self.method} through all layers, {self.residual:.2f} of each layer by the residual stream"

    @property
    def notes(self) -> tuple[str, ...]:
        """What it leaves out."""
        own = [
            "It multiplies attention weights: it ignores the values, their signs, the feed-forward layers, the norms."
        ]
        if len(self.stacks) > 1:
            own.append("Each stack's self-attention is followed by itself; cross-attention is not.")
        return tuple(own)

    def table(self) -> Table:
        """For each token after the last layer, the three input tokens that most of it comes from."""
        rows = []
        for stack in self.stacks:
            shares, places = stack.reached[-1].topk(min(SOURCES, len(stack.tokens)))  # [T 3]
            for query, token in enumerate(stack.tokens):
                for share, key in zip(shares[query].tolist(), places[query].tolist(), strict=True):
                    rows.append((stack.name, query, token, key, stack.tokens[key], share))
        return Table(("group", "place", "token", "from place", "from token", "share"), tuple(rows))

    def figure(self, group: str | None = None) -> Figure:
        """The last layer's matrix, of the first stack or of the one with this name."""
        found = {stack.name: stack for stack in self.stacks}
        if group is not None and group not in found:
            raise InputError(f"group: got {group!r:.40}, expected one of {', '.join(found)}")
        chosen = found[group] if group else self.stacks[0]
        return figures.heatmap(
            chosen.reached[-1],
            chosen.tokens,
            chosen.tokens,
            title=f"Attention {self.method}",
            row_name="token after the last layer",
            column_name="input token",
        )

    def tabs(self) -> tuple[GridTab, ...]:
        """The last layer's matrix of each stack."""
        return tuple(
            GridTab(
                self.method if len(self.stacks) == 1 else f"{self.method}: {stack.name}",
                stack.reached[-1],
                stack.tokens,
                stack.tokens,
                "token after the last layer",
                "input token",
            )
            for stack in self.stacks
        )

    def flow(self) -> Rollout:
        """The same by the greatest flow: weights are the widths of pipes between the tokens of neighbouring layers.

        The flow from a token after the last layer to a token of the input is as much as can pass at once (section 3).
        It takes a computation for each pair of tokens: an InputError for more than some 20 tokens.
        """
        return replace(self, stacks=tuple(_flowing(stack) for stack in self.stacks), method="flow")


def rollout(
    model: Pretrained, text: str | Image, pair: str | None = None, *, target: str | None = None, residual: float = 0.5
) -> Rollout:
    """How much of each token after each layer comes from each input token, by attention alone.

    A layer mixes its attention, the mean of its heads, with what the residual stream keeps: A' = (1 - residual) A +
    residual I; layers are multiplied (section 3; there, residual is 0.5). Of two stacks, each by itself.
    """
    if isinstance(residual, bool) or not isinstance(residual, int | float) or not 0 <= residual <= 1:
        raise InputError(f"residual: got {residual!r:.40}, expected a number from 0 to 1")
    stacks = []
    for group in attention(model, text, pair, target=target).groups:
        if group.name != "cross":
            layers = mixed(group.weights, residual)
            stacks.append(StackRollout(group.name, group.query_tokens, layers, products(layers)))
    return Rollout(tuple(stacks), float(residual))


def mixed(weights: Tensor, residual: float) -> Tensor:
    """A' = (1 - residual) · mean over heads + residual · I, each row summing to 1. [L H T T] -> [L T T]."""
    mean = weights.mean(1)  # [L T T]
    layers = (1 - residual) * mean + residual * torch.eye(mean.shape[-1])
    return layers / layers.sum(-1, keepdim=True).clamp(min=1e-12)  # a query that may attend to nothing keeps itself


def products(layers: Tensor) -> Tensor:
    """A'ₗ … A'₁ for each layer l: [L T T] -> [L T T]. Abnar and Zuidema 2020, eq. 1."""
    found = [layers[0]]
    for layer in layers[1:]:
        found.append(layer @ found[-1])  # [T T]
    return torch.stack(found)


def _flowing(stack: StackRollout) -> StackRollout:
    """The stack with the flow through all layers in place of their product."""
    import networkx  # type: ignore[import-untyped]  # torch brings it
    from networkx.algorithms.flow import shortest_augmenting_path  # type: ignore[import-untyped]

    most = int((MOST_WORK / len(stack.layers)) ** 0.25)
    if len(stack.tokens) > most:
        raise InputError(
            f"flow: got {len(stack.tokens)} tokens, expected at most {most} for {len(stack.layers)} layers; shorten "
            f"the text, or take the rollout itself"
        )
    graph = networkx.DiGraph()
    for number, layer in enumerate(stack.layers.tolist(), start=1):
        for query, row in enumerate(layer):
            for key, width in enumerate(row):
                if width > 0:
                    graph.add_edge((number, query), (number - 1, key), capacity=width)
    size, top = len(stack.tokens), len(stack.layers)
    flow = torch.zeros(1, size, size)
    for query in range(size):
        for key in range(size):
            ends = ((top, query), (0, key))
            if networkx.has_path(graph, *ends):
                flow[0, query, key] = networkx.maximum_flow_value(graph, *ends, flow_func=shortest_augmenting_path)
    return replace(stack, reached=flow)
