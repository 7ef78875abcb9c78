"""Two models of one shape, before and after fine-tuning: where they look, what they carry, which weights changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import PurePath
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.images import Image
from minitransformer.lens.alike import check_shapes, read_alike
from minitransformer.lens.attention import attended, groups_of
from minitransformer.lens.differences import WeightChange, cka_distance, cosine_distance, jensen_shannon, weight_changes
from minitransformer.lens.result import Result
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import AttentionGroup, CompareTab, GridTab, Tab, TableTab
from minitransformer.lens.words import bar, cell
from minitransformer.model import Output
from minitransformer.model.transformer import LOGITS
from minitransformer.pretrained import Pretrained
from minitransformer.reading import Reading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SHOWN = 10  # rows of each part, in a terminal
DISTANCES = ("cosine distance", "1 - CKA")
Groups = tuple[AttentionGroup, ...]
STREAMS = ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")


@dataclass(frozen=True, eq=False)
class Comparison(Result):
    """Two models, A and B, on the same texts. L layers, H heads; all numbers are 0 for models that are equal."""

    names: tuple[str, str]
    divergence: Mapping[str, Tensor]  # kind of attention -> Jensen-Shannon divergence in bits, float64 [L H]
    cosine: Mapping[str, Tensor]  # "encoder hidden states" … -> the mean over tokens of their cosine distance, [1 + L]
    cka: Mapping[str, Tensor]  # the same names -> 1 - linear CKA, [1 + L]
    weights: tuple[WeightChange, ...]
    outputs: Mapping[str, float]  # "logits" -> the largest difference
    groups: tuple[Groups, Groups]  # A's attention and B's, of the first text

    @property
    def title(self) -> str:
        """Which models."""
        return f"{self.names[0]} and {self.names[1]}: where they differ"

    @property
    def notes(self) -> tuple[str, ...]:
        """What this does not show."""
        return (
            "Divergence and distances are those on these texts; of few tokens, CKA says little: it needs more than D.",
            "A head may move without effect, and a small change may decide the answer: see the outputs.",
        )

    def facts(self) -> dict[str, object]:
        """What stands in no row."""
        largest = {f"largest difference of {name}": value for name, value in self.outputs.items()}
        weights = [[each.name, each.change] for each in self.weights]
        return {**largest, "streams": [list(row) for row in self.streams().rows], "weights": weights}

    def table(self) -> Table:
        """The divergence of each head, the largest first."""
        rows: list[tuple[str, int, int, float]] = [
            (kind, layer, head, value)
            for kind, values in self.divergence.items()
            for layer, row in enumerate(values.tolist())
            for head, value in enumerate(row)
        ]
        return Table(
            ("attention", "layer", "head", "divergence (bits)"), tuple(sorted(rows, key=itemgetter(3), reverse=True))
        )

    def streams(self) -> Table:
        """How far apart the residual streams are behind each block."""
        rows = [
            (name, stage, *values)
            for name, stages in self._stages().items()
            for stage, *values in zip(stages, self.cosine[name].tolist(), self.cka[name].tolist(), strict=True)
        ]
        return Table(("stream", "behind", *DISTANCES), tuple(rows))

    def changes(self) -> Table:
        """The relative change of each matrix, the largest first."""
        ordered = sorted(self.weights, key=lambda each: -1.0 if each.change is None else each.change, reverse=True)
        return Table(("matrix", "relative change"), tuple((each.name, each.change) for each in ordered))

    def text(self) -> str:
        """Heads, streams, weights and outputs, the largest of each."""
        largest = [f"largest difference of {name}: {cell(value)}" for name, value in self.outputs.items()]
        return "\n\n".join([_first(self.table()), str(self.streams()), _first(self.changes()), "\n".join(largest)])

    def figure(self) -> Figure:
        """The divergence of each head: layers (rows) × heads (columns)."""
        from minitransformer.lens.figures import heatmap

        heads = max(values.shape[1] for values in self.divergence.values())
        wide = [torch.nn.functional.pad(x, (0, heads - x.shape[1]), value=torch.nan) for x in self.divergence.values()]
        several = len(self.divergence) > 1
        rows = [f"{kind} {i}" if several else str(i) for kind, x in self.divergence.items() for i in range(len(x))]
        columns = tuple(map(str, range(heads)))
        return heatmap(torch.cat(wide), rows, columns, title=self.title, row_name="layer", column_name="head")

    def tabs(self) -> tuple[Tab, ...]:
        """Both models' attention, the streams and the weights as grids, heads and weights as tables."""
        compared = CompareTab(*self.names, *self.groups, self.divergence)
        streams = [
            GridTab(name, torch.stack((self.cosine[name], self.cka[name]), 1), stages, DISTANCES, "behind", "distance")
            for name, stages in self._stages().items()
        ]
        grids = [self._grid(stack) for stack in dict.fromkeys(each.stack for each in self.weights) if stack is not None]
        tables = (TableTab("divergence", self.table()), TableTab("weights", self.changes()))
        return (compared, *streams, *grids, *tables)

    def _stages(self) -> dict[str, tuple[str, ...]]:
        """Of each stream, where it is looked at: the last state is the stack's output, behind its last norm."""
        return {
            name: ("embedding", *(f"block {i}" for i in range(len(values) - 2)), "output")
            for name, values in self.cosine.items()
        }

    def _grid(self, stack: str) -> GridTab:
        """The changes in one stack: layers (rows) × parts (columns)."""
        mine = [each for each in self.weights if each.stack == stack]
        layers, parts = sorted({each.layer or 0 for each in mine}), list(dict.fromkeys(each.part for each in mine))
        values = torch.full((len(layers), len(parts)), torch.nan)
        for each in mine:
            values[each.layer or 0, parts.index(each.part)] = torch.nan if each.change is None else each.change
        return GridTab(f"{stack} weights", values, tuple(map(str, layers)), tuple(parts), "layer", "matrix")


def _first(table: Table) -> str:
    """The first rows, with a bar for the number at the end of each."""
    numbers = [float(row[-1]) if isinstance(row[-1], float) else 0.0 for row in table.rows[:MOST_SHOWN]]
    rows = [(*row, bar(number, max(numbers))) for row, number in zip(table.rows, numbers, strict=False)]
    more = len(table.rows) - MOST_SHOWN
    return f"{Table((*table.columns, ''), tuple(rows))}" + (f"\n… and {more:,} more" if more > 0 else "")


def compare(
    model_a: Pretrained,
    model_b: Pretrained,
    texts: str | Image | list[str] | list[Image],
    pair: str | None = None,
    *,
    target: str | None = None,
) -> Comparison:
    """What differs between two models of one shape, on a text or several; their task heads may be others.

    The divergence of each head's attention (mean over queries), the distance of the residual streams (cosine, mean over
    tokens; linear CKA), the relative change of each matrix, and the largest difference of outputs that both have. Both
    read the same tokens; a decoder behind an encoder the target, or what A writes. An InputError names what differs in
    shape or in tokens.
    """
    check_shapes(model_a, model_b)
    given = texts if isinstance(texts, list) else [texts]
    if not given:
        raise InputError("texts: got none, expected one or more")
    found: list[BothOutputs] = []
    for text in given:
        seen = read_by_both(model_a, model_b, read_alike(model_a, model_b, text, pair, target))
        found.append(replace(seen, groups=found[0].groups) if found else seen)  # weights of one text are many enough
    cosine, cka = stream_distances(found)
    return Comparison(
        names=names_of(model_a, model_b),
        divergence={kind: torch.cat([x.divergence[kind] for x in found], -1).mean(-1) for kind in found[0].divergence},
        cosine=cosine,
        cka=cka,
        weights=tuple(weight_changes(model_a.transformer, model_b.transformer)),
        outputs={name: max(x.outputs[name] for x in found) for name in found[0].outputs},
        groups=found[0].groups,
    )


def names_of(model_a: Pretrained, model_b: Pretrained) -> tuple[str, str]:
    """What the two are called: the last part of the names they were loaded by, and which they are, if that is one."""
    a, b = (PurePath(model.base).name or model.base for model in (model_a, model_b))
    return (f"{a} (A)", f"{b} (B)") if a == b else (a, b)


@dataclass(frozen=True, eq=False)
class BothOutputs:
    """What is kept of both models reading one text."""

    groups: tuple[Groups, Groups]
    divergence: Mapping[str, Tensor]  # kind of attention -> of each query, float64 [L H T]
    states: Mapping[str, list[tuple[Tensor, Tensor]]]  # stream -> for each stage A's and B's, [T D] each
    outputs: Mapping[str, float]  # the largest difference of each


def read_by_both(model_a: Pretrained, model_b: Pretrained, reading: Reading) -> BothOutputs:
    """Have both models read a text."""
    a, b = (_output(model, reading) for model in (model_a, model_b))
    groups = groups_of(a, reading), groups_of(b, reading)
    streams = {name: (getattr(a, name), getattr(b, name)) for name in STREAMS if getattr(a, name) is not None}
    return BothOutputs(
        groups,
        {x.name: jensen_shannon(x.weights, y.weights) for x, y in zip(*groups, strict=True)},
        {name: [(x[0].cpu(), y[0].cpu()) for x, y in zip(*both, strict=True)] for name, both in streams.items()},
        largest_differences(a, b),
    )


def _output(model: Pretrained, reading: Reading) -> Output:
    return attended(model, replace(reading, batch=reading.batch.to(model.device)), output_hidden_states=True)


def stream_distances(found: Sequence[BothOutputs]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """For each stream the cosine distance and 1 - CKA of its states, over the tokens of all texts: [1 + L] each."""
    cosine, cka = {}, {}
    for name in found[0].states:
        texts = zip(*(x.states[name] for x in found), strict=True)  # of each stage, A's and B's for every text
        stages = [(torch.cat([a for a, _ in stage]), torch.cat([b for _, b in stage])) for stage in texts]  # [N D]
        cosine[name.replace("_", " ")] = torch.stack([cosine_distance(a, b).mean() for a, b in stages])
        cka[name.replace("_", " ")] = torch.tensor([cka_distance(a, b) for a, b in stages], dtype=torch.float64)
    return cosine, cka


def largest_differences(a: Output, b: Output) -> dict[str, float]:
    """The largest difference of each output that both models have, in one shape."""
    found: dict[str, float] = {}
    for name in ("last_hidden_state", "pooler_output", *LOGITS):
        x, y = getattr(a, name), getattr(b, name)
        if x is not None and y is not None and x.shape == y.shape:
            found[name] = (x.cpu() - y.cpu()).abs().max().item()
    return found
