"""A number for each head of a model, or for each of its layers: what muting it changes, how important it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.lens.result import Result
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import GridTab, Tab
from minitransformer.lens.words import aligned, bar, cell
from minitransformer.metrics.numbers import correlation, ranks
from minitransformer.model.points import kinds_of_attention
from minitransformer.pretrained import Pretrained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SHOWN = 20  # rows in a terminal


@dataclass(frozen=True, eq=False)
class HeadScores(Result):
    """Scores of L layers, H heads each; of whole parts of a layer there is one column."""

    scores: Tensor  # float64 [L H]
    name: str  # "heads muted (zero): change of the loss"
    metric: str  # by which number the model was judged: "loss", "distance", "metric"
    unchanged: float  # that number of the model as it is: the mean over the examples
    examples: int  # rows: a text whose tokens are hidden by turns is several
    unit: str  # "head", "attention" or "mlp"
    group: str | None  # which kind of attention it is: "attention", or "encoder", "decoder", "cross" of two stacks
    signed: bool  # whether a score may be negative

    @property
    def title(self) -> str:
        """What the scores are."""
        of_kind = "" if self.group in ("attention", None) else f" [{self.group}]"
        return f"{self.name[:1].upper()}{self.name[1:]}{of_kind}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What this does not show."""
        return (
            "Each is judged alone: two heads that do the same stand in for each other, and neither looks important.",
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(map(str, range(self.scores.shape[1]))) if self.unit == "head" else (self.unit,)

    def ranking(self) -> tuple[tuple[int, int, float], ...]:
        """(layer, head, score) of each, the largest size first, whatever its sign."""
        order = self.scores.abs().flatten().argsort(descending=True, stable=True).tolist()
        places = [divmod(place, self.scores.shape[1]) for place in order]
        return tuple((layer, head, self.scores[layer, head].item()) for layer, head in places)

    def agreement(self, other: HeadScores) -> float:
        """Whether two ways to score put the same heads first: Spearman's correlation of the scores' sizes, -1 to 1."""
        if self.scores.shape != other.scores.shape or (self.unit, self.group) != (other.unit, other.group):
            mine, theirs = (f"{list(x.scores.shape)} of {x.group or x.unit}" for x in (self, other))
            raise InputError(f"agreement: got scores {mine} and {theirs}, expected those of the same heads")
        first, second = (ranks(x.scores.abs().flatten().numpy()) for x in (self, other))  # [L·H]
        return correlation(first, second)

    def facts(self) -> dict[str, object]:
        """What stands in no row."""
        return {"metric": self.metric, "unchanged": self.unchanged, "examples": self.examples}

    def table(self) -> Table:
        """The ranking."""
        return Table(("layer", self.unit, "score"), tuple((i, self._column(h), s) for i, h, s in self.ranking()))

    def text(self) -> str:
        """The first of the ranking, with bars as long as the scores."""
        rows = self.table().rows
        most = abs(self.ranking()[0][2])
        lines = [["layer", self.unit, "score", ""]]
        lines += [[cell(i), cell(h), cell(s), bar(abs(s), most)] for i, h, s in rows[:MOST_SHOWN]]  # type: ignore[arg-type]
        more = f"\n… and {len(rows) - MOST_SHOWN:,} more" if len(rows) > MOST_SHOWN else ""
        over = "one example" if self.examples == 1 else f"{self.examples:,} examples, their mean"
        first = f"the unchanged model's {self.metric}: {cell(self.unchanged)}, over {over}"
        return f"{first}\n\n{aligned(lines, [True, True, True, False])}{more}"

    def figure(self) -> Figure:
        """Layers (rows) × heads (columns)."""
        from minitransformer.lens.figures import heatmap

        rows, name = tuple(map(str, range(len(self.scores)))), self.unit if self.unit == "head" else ""
        return heatmap(
            self.scores, rows, self.labels, title=self.title, row_name="layer", column_name=name, signed=self.signed
        )

    def tabs(self) -> tuple[Tab, ...]:
        """The same as a grid; a click on a cell selects that head in all views."""
        rows, selects = tuple(map(str, range(len(self.scores)))), self.group if self.unit == "head" else None
        return (GridTab(self.name, self.scores, rows, self.labels, "layer", self.unit, self.signed, selects),)

    def _column(self, head: int) -> int | str:
        return head if self.unit == "head" else self.unit


def group_of(model: Pretrained, attention: str | None) -> str:
    """What the views call that kind of attention: "attention" in a model of one stack."""
    return "attention" if len(kinds_of_attention(model.transformer)) == 1 else str(attention)
