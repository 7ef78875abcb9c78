"""Activation patching: which places of a run, put into another run, bring its answer back.

Vig et al. 2020, "Investigating Gender Bias in Language Models Using Causal Mediation Analysis"; Meng et al. 2022,
"Locating and Editing Factual Associations in GPT", section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.images import Image
from minitransformer.lens.head_scores import group_of
from minitransformer.lens.interventions import changed_values
from minitransformer.lens.metric import Metric, Token, distance, logit, value_of
from minitransformer.lens.result import Result
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import GridTab, Tab
from minitransformer.model import Output
from minitransformer.model.inside import run_with_cache
from minitransformer.model.points import Heads, heads_of
from minitransformer.model.transformer import TWICE_READ
from minitransformer.pretrained import Pretrained
from minitransformer.reading import Reading
from minitransformer.tasks.inference import inference
from minitransformer.text import Batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

At = Literal["resid_pre", "attn_out", "mlp_out", "z", "pattern", "q", "k", "v"]
NOISE = 1e-6  # of float32: a smaller difference, relative to the numbers, is none
BY_POSITION = ("resid_pre", "attn_out", "mlp_out")  # at the others, the places are heads


@dataclass(frozen=True, eq=False)
class PatchGrid(Result):
    """How much of the clean run's answer each place brings back: 0 nothing, 1 all. L layers, T tokens, H heads."""

    scores: Tensor  # float64 [L T], or [L H]
    at: str
    metric: str  # what was measured
    clean: float  # the metric of the clean run
    corrupted: float  # of the corrupted one
    tokens: tuple[str, ...]  # T: of the clean text
    corrupted_tokens: tuple[str, ...]  # T
    group: str  # which kind of attention the places belong to

    @property
    def title(self) -> str:
        """What was patched."""
        return f"Patching {self.at}: what each place restores of the clean run"

    @property
    def notes(self) -> tuple[str, ...]:
        """What this does not show."""
        return (
            f"The metric is {self.metric}: {self.clean:.4g} clean, {self.corrupted:.4g} corrupted.",
            "A place that restores the answer is enough for it here; another may be as good, and do the same alone.",
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the columns: tokens, where the two texts differ with the corrupted one behind it, or heads."""
        if self.at not in BY_POSITION:
            return tuple(map(str, range(self.scores.shape[1])))
        pairs = zip(self.tokens, self.corrupted_tokens, strict=True)
        return tuple(token if token == other else f"{token}|{other}" for token, other in pairs)

    def facts(self) -> dict[str, object]:
        """What stands in no row."""
        return {"at": self.at, "metric": self.metric, "clean": self.clean, "corrupted": self.corrupted}

    def table(self) -> Table:
        """A row for each column of the picture, a column for each layer: tokens are long, and layers few."""
        names, layers = self.labels, len(self.scores)
        place = "position" if self.at in BY_POSITION else "head"
        columns = (place, *(("token",) if place == "position" else ()), *(f"layer {i}" for i in range(layers)))
        rows = [
            (i, *((names[i],) if place == "position" else ()), *column)
            for i, column in enumerate(self.scores.T.tolist())
        ]
        return Table(columns, tuple(rows))

    def text(self) -> str:
        """The table, shares to three places."""
        table = self.table()
        rows = [tuple(round(x, 3) if isinstance(x, float) else x for x in row) for row in table.rows]
        return str(Table(table.columns, tuple(rows)))

    def figure(self) -> Figure:
        """Layers (rows) × positions or heads (columns)."""
        from minitransformer.lens.figures import heatmap

        rows, place = tuple(map(str, range(len(self.scores)))), "" if self.at in BY_POSITION else "head"
        names = {"row_name": "layer", "column_name": place}
        return heatmap(self.scores, rows, self.labels, title=self.title, signed=True, numbers=True, **names)

    def tabs(self) -> tuple[Tab, ...]:
        """The same as a grid."""
        by_position, rows = self.at in BY_POSITION, tuple(map(str, range(len(self.scores))))
        place, selects = ("position", None) if by_position else ("head", self.group)
        return (GridTab(f"patching {self.at}", self.scores, rows, self.labels, "layer", place, True, selects),)


def patch(
    model: Pretrained,
    clean: str | Image,
    corrupted: str | Image,
    *,
    at: At = "resid_pre",
    metric: Metric | None = None,
    answer: Token = None,
    foil: Token = None,
    position: int | None = None,
    attention: str | None = None,
    target: str | None = None,
) -> PatchGrid:
    """What each place of the clean run, put into the corrupted run alone, restores of the metric: [L T] or [L H].

    (patched - corrupted) / (clean - corrupted). The texts have the same number of tokens. at: "resid_pre", "attn_out",
    "mlp_out" at each position; "z", "pattern", "q", "k", "v" of each head. Without a metric it is the logit of `answer`
    less that of `foil`, at `position`; without an answer, of what the clean run answers less what the corrupted one
    answers; of a model without a head, the distance from the clean run's last hidden states. target: what a decoder
    behind an encoder reads in both runs; without it, what the model writes for the clean text.
    """
    if at not in get_args(At):
        raise InputError(f"at: got {at!r}, expected one of {', '.join(get_args(At))}")
    heads = heads_of(model.transformer, attention)
    first, second = read_both(model, clean, corrupted, target)
    of_encoder = attention == "encoder" or first.decoder_tokens is None
    tokens, others = ((x.tokens if of_encoder else x.decoder_tokens) or () for x in (first, second))
    points = [patched_point(heads, layer, at) for layer in range(heads.layers)]
    with inference(model.transformer):
        output, seen = run_with_cache(model.transformer, first.batch, names=points)
        other = model(**second.batch)
        name, measure = measured_by(model, (first, second), (output, other), metric, answer, foil, position)
        best, worst = (float(value_of(measure, each)) for each in (output, other))
        check_different(name, best, worst)
        rows = [
            changed_values(model.transformer, second.batch, measure, point, replacements(seen[point], at))
            for point in points
        ]
    scores = (torch.stack(rows) - worst) / (best - worst)
    return PatchGrid(scores, at, name, best, worst, tokens, others, group_of(model, attention))


def check_different(name: str, best: float, worst: float) -> None:
    """Raise an InputError where there is nothing to restore."""
    if not abs(best - worst) > NOISE * max(abs(best), abs(worst)):
        raise InputError(
            f"clean, corrupted: {name} is {best:.6g} and {worst:.6g}: there is nothing to restore; give texts that "
            f"the model answers differently, or another metric"
        )


def read_both(
    model: Pretrained, clean: str | Image, corrupted: str | Image, target: str | None
) -> tuple[Reading, Reading]:
    """What the model reads of both texts. An InputError unless they have the same number of tokens."""
    first = model.read(clean, target=target)
    second = model.read(corrupted, target=target)
    if first.decoder_tokens is not None and not isinstance(model.transformer.config.head, TWICE_READ):
        batch = Batch({**second.batch, "decoder_input_ids": first.batch["decoder_input_ids"]})
        second = replace(second, batch=batch, decoder_tokens=first.decoder_tokens)
    if len(first.tokens) != len(second.tokens):
        same = next((i for i, (a, b) in enumerate(zip(first.tokens, second.tokens, strict=False)) if a != b), 0)
        raise InputError(
            f"clean, corrupted: got {len(first.tokens)} and {len(second.tokens)} tokens, expected as many; from "
            f"{same} on they are {_some(first.tokens[same:])} and {_some(second.tokens[same:])}; try other words"
        )
    return first, second


def _some(tokens: Sequence[str]) -> str:
    return "[" + ", ".join(f"{token!r:.30}" for token in tokens[:8]) + (", …]" if len(tokens) > 8 else "]")


def measured_by(
    model: Pretrained,
    readings: tuple[Reading, Reading],
    outputs: tuple[Output, Output],
    metric: Metric | None,
    answer: Token,
    foil: Token,
    position: int | None,
) -> tuple[str, Metric]:
    """The name of the metric, and the metric; by default the logit that tells the clean run from the corrupted one."""
    if metric is not None:
        if any(x is not None for x in (answer, foil, position)):
            raise InputError("metric: got one, and answer, foil or position besides, which make another; give either")
        return "the metric", metric
    if model.transformer.head is None and answer is None and foil is None:
        return "the distance from the clean run's last hidden states", distance(outputs[0])
    if answer is not None or foil is not None:
        return logit(model, readings[0], outputs[0], answer, foil, position)
    name, right = logit(model, readings[0], outputs[0], None, None, position)
    other, wrong = logit(model, readings[1], outputs[1], None, None, position)
    return (name, right) if name == other else (f"{name} − {other}", lambda x: value_of(right, x) - value_of(wrong, x))


def patched_point(heads: Heads, layer: int, at: At) -> str:
    """The name of the point in that layer."""
    return heads.block_point(layer, at) if at in BY_POSITION else heads.point(layer, at)


def replacements(clean: Tensor, at: At) -> list[partial[Tensor]]:
    """For each place of a point, [1 T D], [1 T H E] or (patterns) [1 H T S], what puts the clean run's value there."""
    dim = 1 if at in (*BY_POSITION, "pattern") else 2
    return [partial(_put, clean, dim, place) for place in range(clean.shape[dim])]


def _put(clean: Tensor, dim: int, place: int, x: Tensor) -> Tensor:
    x = x.clone()
    x.select(dim, place).copy_(clean.select(dim, place))
    return x
