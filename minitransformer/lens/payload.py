"""What a page carries: a header of plain values for JSON, and blocks of numbers in base64 that it points to.

Attention weights are rounded, the coarser the more there are, and the header says how far off they can be. All other
numbers stay float32.
"""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatchmethod

import numpy as np
import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.lens import tabs

FINE, DENSE = 300_000, 4_000_000  # weights: so many in 16 bits each, so many in 8; of more, the largest of each row
LARGEST = 32

Header = dict[str, object]


@dataclass
class Payload:
    """Turns tabs into headers, and keeps the blocks they point to. The same numbers are kept once."""

    blocks: dict[str, str] = field(default_factory=dict)  # name -> base64

    def block(self, array: np.ndarray) -> str:
        """Keeps the array's bytes, little end first; returns the block's name."""
        data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        name = "block-" + hashlib.sha256(data).hexdigest()[:16]
        if name not in self.blocks:
            self.blocks[name] = base64.b64encode(data).decode()
        return name

    def numbers(self, values: Tensor) -> Header:
        """A tensor, as it is, in float32."""
        array = values.detach().to("cpu", torch.float32).numpy()
        return {"shape": list(array.shape), "block": self.block(array)}

    @singledispatchmethod
    def tab(self, tab: object) -> Header:
        """The header of one tab: its kind, its words, and the names of its blocks."""
        raise InputError(f"page: got {type(tab).__name__} as a tab, expected one of the classes of lens.tabs")

    @tab.register
    def _(self, tab: tabs.AttentionTab) -> Header:
        groups = [self.group(group) for group in tab.groups]
        return {"kind": "attention", "groups": groups, "layer": tab.layer, "heads": _listed(tab.heads)}

    @tab.register
    def _(self, tab: tabs.CompareTab) -> Header:
        shapes_a, shapes_b = ({g.name: tuple(g.weights.shape) for g in groups} for groups in (tab.a, tab.b))
        if shapes_a != shapes_b:
            raise InputError(f"comparison: got {shapes_a} and {shapes_b}, expected the same names and shapes")
        for name, (layers, heads, _, _) in shapes_a.items():
            if name not in tab.divergence:
                raise InputError(f"divergence: got {sorted(tab.divergence)}, expected {name!r} among them")
            _check_shape("divergence", tab.divergence[name], layers, heads)
        return {
            "kind": "compare",
            "names": [tab.name_a, tab.name_b],
            "groups": [self.group(group) for group in tab.a],
            "others": [self.group(group) for group in tab.b],
            "divergence": {name: self.numbers(tab.divergence[name]) for name in shapes_a},
        }

    @tab.register
    def _(self, tab: tabs.StepsTab) -> Header:
        names = ("layer", "head", "query", "group")
        steps = [self.step(step) for step in tab.steps]
        return {"kind": "steps", "tokens": list(tab.tokens), "steps": steps} | {n: getattr(tab, n) for n in names}

    @tab.register
    def _(self, tab: tabs.LayersTab) -> Header:
        _check_shape("probabilities", tab.probabilities, len(tab.stages), len(tab.tokens), None)
        top = [[list(candidates) for candidates in row] for row in tab.top_tokens]
        counts = {len(candidates) for row in top for candidates in row}
        if [len(row) for row in top] != [len(tab.tokens)] * len(tab.stages) or counts - {tab.probabilities.shape[2]}:
            raise InputError(f"top_tokens: expected as many as probabilities, {list(tab.probabilities.shape)}")
        numbers = self.numbers(tab.probabilities)
        words = {"stages": list(tab.stages), "tokens": list(tab.tokens), "top": top, "where": tab.where}
        return {"kind": "layers", "place": tab.place} | words | numbers

    @tab.register
    def _(self, tab: tabs.GridTab) -> Header:
        _check_shape(tab.name, tab.values, len(tab.row_labels), len(tab.column_labels))
        names = ("name", "row_name", "column_name", "signed", "selects")
        labels = {"rows": list(tab.row_labels), "columns": list(tab.column_labels)}
        return {"kind": "grid"} | {name: getattr(tab, name) for name in names} | labels | self.numbers(tab.values)

    @tab.register
    def _(self, tab: tabs.TableTab) -> Header:
        rows = [[_plain(cell) for cell in row] for row in tab.table.rows]
        return {"kind": "table", "name": tab.name, "columns": list(tab.table.columns), "rows": rows}

    def step(self, step: tabs.Step) -> Header:
        """One step of an explanation."""
        _check_shape(step.symbol, step.value, len(step.row_labels), len(step.column_labels) or None)
        words = {name: getattr(step, name) for name in ("symbol", "formula", "code", "shape", "note")}
        labels = {"rows": list(step.row_labels), "columns": list(step.column_labels)}
        return words | labels | {"value": self.numbers(step.value), "product": self.product(step)}

    def product(self, step: tabs.Step) -> Header | None:
        """The sum of products that each cell of the step is."""
        product = step.product
        if product is None:
            return None
        rows, columns = step.value.shape
        _check_shape(product.left, product.left_value, rows, None)
        _check_shape(product.right, product.right_value, product.left_value.shape[1], columns)
        plus = None if product.plus is None else self.numbers(torch.atleast_2d(product.plus))
        values = {"left_value": self.numbers(product.left_value), "right_value": self.numbers(product.right_value)}
        return {"left": product.left, "right": product.right, "factor": product.factor, "plus": plus} | values

    def group(self, group: tabs.AttentionGroup) -> Header:
        """One kind of attention: tokens, numbers of layers and heads, and the weights of each layer."""
        weights = group.weights.detach().to("cpu", torch.float32)
        _check_shape(f"{group.name} weights", weights, None, None, len(group.query_tokens), len(group.key_tokens))
        if not 0 <= weights.min() <= weights.max() <= 1.001:  # also where one is nan
            raise InputError(f"{group.name} weights: expected numbers from 0 to 1, as they are after softmax")
        layers, heads, _, _ = weights.shape
        names = ("name", "query_second", "key_second")
        return {name: getattr(group, name) for name in names} | {
            "queries": list(group.query_tokens),
            "keys": list(group.key_tokens),
            "layers": list(group.layers or range(layers)),
            "heads": list(group.heads or range(heads)),
            **self.rounded(weights.clamp(max=1)),
        }

    def rounded(self, weights: Tensor) -> Header:
        """Weights [L H T S] as integers of 0 .. `levels`, a block for each layer. Says what share of all is kept."""
        if weights.numel() > DENSE:
            return self.largest(weights)
        whole: Header = {"places": None, "largest": None, "share": 1.0}
        if weights.numel() > FINE:
            return self.of_rows(weights) | whole
        blocks = [self.block((layer * 65535).round().numpy().astype(np.uint16)) for layer in weights]
        return {"levels": 65535, "tops": None, "blocks": blocks} | whole

    def of_rows(self, weights: Tensor) -> Header:
        """Weights [L H T k] in 8 bits, as shares of each row's largest, so that even attention stays to be seen."""
        tops = weights.amax(-1, keepdim=True)  # [L H T 1]
        levels = (255 * weights / tops.clamp(min=1e-30)).round().numpy().astype(np.uint8)
        return {"levels": 255, "tops": list(map(self.block, tops.numpy())), "blocks": list(map(self.block, levels))}

    def largest(self, weights: Tensor) -> Header:
        """The largest weights of each row, and their places."""
        count = min(LARGEST, weights.shape[-1])
        tops = weights.topk(count)  # [L H T count]
        places = [self.block(layer.numpy().astype(np.uint16)) for layer in tops.indices]
        total = weights.sum(dtype=torch.float64).item()
        share = tops.values.sum(dtype=torch.float64).item() / total if total else 1.0
        return self.of_rows(tops.values) | {"places": places, "largest": count, "share": share}


def payload(
    title: str, shown: Sequence[tabs.Tab], notes: Sequence[str], start: str
) -> tuple[Header, Mapping[str, str]]:
    """The header of a whole page, and its blocks by name."""
    blocks = Payload()
    return {
        "title": title,
        "notes": list(notes),
        "start": start,
        "tabs": [blocks.tab(tab) for tab in shown],
    }, blocks.blocks


def _check_shape(name: str, values: Tensor, *sizes: int | None) -> None:
    """Raises where the tensor has another shape. None: any size but 0."""
    shape = tuple(values.shape)
    fits = len(shape) == len(sizes) and all(
        got == size or (size is None and got) for got, size in zip(shape, sizes, strict=True)
    )
    if not fits or not values.numel():
        expected = ", ".join("any" if size is None else str(size) for size in sizes)
        raise InputError(
            f"{name}: got shape {list(shape)}, expected [{expected}], as many as there are tokens or labels"
        )


def _listed(heads: Sequence[int] | None) -> list[int] | None:
    return None if heads is None else list(heads)


def _plain(cell: object) -> object:
    """A table's cell as JSON has it; numbers that JSON lacks, and whatever else, as text."""
    if cell is None or isinstance(cell, bool | int) or (isinstance(cell, float) and math.isfinite(cell)):
        return cell
    return str(cell)
