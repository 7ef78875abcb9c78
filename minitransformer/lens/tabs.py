"""What a page shows: plain data, one class per kind of view. `lens` functions make them, `page` draws them.

Letters: L layers, H heads, T queries, S keys, R rows, C columns, k candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from minitransformer.lens.table import Table


@dataclass(frozen=True)
class AttentionGroup:
    """The weights of one kind of attention: the encoder's, the decoder's, the cross-attention's, or the only one's."""

    name: str  # "attention", "encoder", "decoder", "cross"
    weights: Tensor  # [L H T S], rows sum to 1 (or to 0: a query that may attend to nothing)
    query_tokens: tuple[str, ...]  # T
    key_tokens: tuple[str, ...]  # S
    query_second: int | None = None  # the place where the second text begins, for the filters of sentence pairs
    key_second: int | None = None
    layers: tuple[int, ...] | None = None  # the layers' numbers, where they are not 0 .. L-1
    heads: tuple[int, ...] | None = None  # the heads' numbers, where they are not 0 .. H-1


@dataclass(frozen=True)
class AttentionTab:
    """Attention weights, shown as three views: heads (lines), model (thumbnails) and matrix (numbers)."""

    groups: tuple[AttentionGroup, ...]
    layer: int = 0  # selected at first
    heads: tuple[int, ...] | None = None  # switched on at first; None: all


@dataclass(frozen=True)
class CompareTab:
    """Two models on one text: A, B and the difference of the selected head, and how far apart every head is."""

    name_a: str
    name_b: str
    a: tuple[AttentionGroup, ...]
    b: tuple[AttentionGroup, ...]  # the same names and shapes as a
    divergence: Mapping[str, Tensor]  # group name -> [L H]


@dataclass(frozen=True)
class Product:
    """How each cell of a step is a sum: value[i, j] = (sum_k left[i, k] · right[k, j]) · factor + plus[i or 0, j]."""

    left: str  # what the left factor is called: "x"
    right: str  # "W_Q"
    left_value: Tensor  # [rows K]
    right_value: Tensor  # [K columns]
    factor: float = 1.0
    plus: Tensor | None = None  # [rows columns] or [1 columns]


@dataclass(frozen=True)
class Step:
    """One step of an explanation: its formula, the line of Python that computes it, and the numbers it gives."""

    symbol: str  # "q"
    formula: str  # "q = x W_Q + b_Q"
    code: str  # the line of Python that computes it
    shape: str  # "[T E] = [9 32]"
    value: Tensor  # [rows columns]
    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]  # empty: the columns are numbered
    note: str = ""
    product: Product | None = None  # the page shows each cell's own sum


@dataclass(frozen=True)
class StepsTab:
    """One head explained step by step, for one query."""

    layer: int
    head: int
    query: int
    group: str
    tokens: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class LayersTab:
    """The logit lens: what the model would predict at each position, were it to stop at each stage."""

    stages: tuple[str, ...]  # R of them: "embedding", "block 0", ..., "output"
    tokens: tuple[str, ...]  # T positions
    top_tokens: tuple[tuple[tuple[str, ...], ...], ...]  # [R][T][k]
    probabilities: Tensor  # [R T k]
    where: str  # the predicted token comes "after" a position, or it is the one "at" it
    place: int  # the position selected at first


@dataclass(frozen=True)
class GridTab:
    """Any matrix of scores with labels: ablation, importance, head types, patching, rollout, saliency."""

    name: str
    values: Tensor  # [R C]; nan: there is nothing there
    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]
    row_name: str  # "layer"
    column_name: str  # "head"
    signed: bool = False  # colours that diverge from 0
    selects: str | None = None  # a group's name: a click on cell (layer, head) selects that head everywhere


@dataclass(frozen=True)
class TableTab:
    """A table of plain rows."""

    name: str
    table: Table


Tab = AttentionTab | CompareTab | StepsTab | LayersTab | GridTab | TableTab
