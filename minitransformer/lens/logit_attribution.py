"""Direct logit attribution: which part of the model wrote how much of one token's logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.lens import figures
from minitransformer.lens.answers import language_model, token_id
from minitransformer.lens.result import Result
from minitransformer.lens.stream import direction, last_stack, unembedding_of, written
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import GridTab, Tab, TableTab
from minitransformer.lens.words import bar, visible
from minitransformer.model.heads.language import vocabulary
from minitransformer.model.points import place_in
from minitransformer.modules import LayerNorm
from minitransformer.pretrained import Pretrained
from minitransformer.reading import tokens_of
from minitransformer.tasks.inference import inference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

By = Literal["component", "layer", "head"]
MOST_PRINTED = 20  # parts


@dataclass(frozen=True)
class Part:
    """Something that writes to the residual stream, and how much of the logit it wrote."""

    layer: int | None  # None: it is in no block
    name: str  # "embedding", "block", "attn", "head 3", "b_O", "mlp", …
    value: float

    def __str__(self) -> str:
        block = f"block {self.layer}"
        return self.name if self.layer is None else block if self.name == "block" else f"{block} {self.name}"


@dataclass(frozen=True, eq=False)
class LogitAttribution(Result):
    """The parts of a logit, or of the difference of two. Their sum and the remainder are what the model gave."""

    by: By
    answer: str
    foil: str | None
    position: int
    tokens: tuple[str, ...]  # that the stack read
    parts: tuple[Part, ...]
    logit: float  # the model's own: of the answer, less the foil's

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return sum(part.value for part in self.parts)

    @property
    def remainder(self) -> float:
        """What the parts leave of the logit: rounding."""
        return self.logit - self.total

    @property
    def title(self) -> str:
        """The headline."""
        foil = "" if self.foil is None else f" minus that of “{visible(self.foil)}”"
        return f"Logit of “{visible(self.answer)}”{foil}, by {self.by}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What this does not show."""
        direct = (
            "Only what a part writes into the logit itself: what it lets later parts write is theirs. The final norm's "
            "scale is taken as it is."
        )
        alone = "A logit alone may rise with all others: give a foil, and what they share falls out."
        return (direct,) if self.foil is not None else (direct, alone)

    def table(self) -> Table:
        """A row for each part, in the order of the computation."""
        rows = tuple((part.layer, part.name, part.value) for part in self.parts)
        return Table(("layer", "part", "logit"), rows)

    def text(self) -> str:
        """The largest parts with their bars, and the sum."""
        largest = sorted(self.parts, key=lambda part: -abs(part.value))
        most = abs(largest[0].value)
        rows = [(str(part), f"{part.value:+.4f}", bar(abs(part.value), most)) for part in largest[:MOST_PRINTED]]
        rest = sum(part.value for part in largest[MOST_PRINTED:])
        if len(largest) > MOST_PRINTED:
            rows.append((f"{len(largest) - MOST_PRINTED} smaller parts", f"{rest:+.4f}", ""))
        rows += [("sum", f"{self.total:+.4f}", ""), ("the model's", f"{self.logit:+.4f}", "")]
        where = visible(f"at position {self.position} ({self.tokens[self.position]})")
        return f"{where}\n\n{Table(('part', 'logit', ''), tuple(rows))}\n\nremainder {self.remainder:.1e}"

    def figure(self) -> Figure:
        """A bar for each part; of heads, a grid of layers × heads."""
        if self.by != "head":
            values = [part.value for part in self.parts]
            names = [str(part) if self.by == "layer" else str(part).removeprefix("block ") for part in self.parts]
            return figures.bars(names, values, title=self.title, value_name="logit")
        names = list(dict.fromkeys(part.name for part in self.parts if part.layer is not None))
        grid = self._grid(names)
        rows = [str(layer) for layer in range(len(grid))]
        return figures.heatmap(grid, rows, names, title=self.title, row_name="layer", signed=True)

    def tabs(self) -> tuple[Tab, ...]:
        """Layers × parts as a grid, and all parts as a table. A click on a head selects it everywhere."""
        names = list(dict.fromkeys(part.name for part in self.parts if part.layer is not None))
        grids: list[tuple[str, list[str], str, str | None]] = [("parts", names, "part", None)]
        if self.by == "head":
            own = [name for name in names if name.startswith("head ")]
            cross = [name for name in names if name.startswith("cross head ")]
            grids = [("heads", own, "head", "decoder" if cross else "attention")]
            grids += [("cross heads", cross, "head", "cross")] if cross else []
        return (*(self._tab(*each) for each in grids), TableTab("logit: all parts", self.table()))

    def facts(self) -> dict[str, object]:
        """What was attributed, and whether it adds up."""
        names = ("by", "answer", "foil", "position", "logit", "total", "remainder")
        return {name: getattr(self, name) for name in names}

    def _tab(self, name: str, names: list[str], column: str, selects: str | None) -> GridTab:
        grid = self._grid(names)
        rows = tuple(str(layer) for layer in range(len(grid)))
        columns = tuple(each.rpartition("head ")[2] for each in names)
        return GridTab(f"logit: {name}", grid, rows, columns, "layer", column, signed=True, selects=selects)

    def _grid(self, names: list[str]) -> Tensor:
        """The parts of blocks: [layers names]; nan where a block has no such part."""
        layers = 1 + max(part.layer for part in self.parts if part.layer is not None)
        grid = torch.full((layers, len(names)), torch.nan)
        for part in self.parts:
            if part.layer is not None and part.name in names:
                grid[part.layer, names.index(part.name)] = part.value
        return grid


def logit_attribution(
    model: Pretrained,
    text: str,
    answer: str | int,
    foil: str | int | None = None,
    *,
    by: By = "component",
    position: int = -1,
    target: str | None = None,
) -> LogitAttribution:
    """The logit of `answer` (less that of `foil`) at a position, as a sum of what each part wrote to the stream.

    answer, foil: the text of one token, or its id. by: "component" (each attention, each feed-forward), "layer", or
    "head" (each head, with W_O's biases apart). position: of the text, or of what a decoder behind an encoder reads,
    which `target` says. The final norm's scale is frozen at its value, so the rest is linear.
    An InputError for post-norm models. Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
    """
    if by not in ("component", "layer", "head"):
        raise InputError(f"by: got {by!r}, expected 'component', 'layer' or 'head'")
    _check_adds_up(model)
    ids = _ids(model, answer, foil)
    reading = model.read(text, target=target)
    tokens = reading.tokens if reading.decoder_tokens is None else reading.decoder_tokens
    place = place_in("position", position, len(tokens))
    with inference(model.transformer):
        logits, scale, wrote = written(model.transformer, reading.batch, place, by_heads=by == "head")
        rows, bias = unembedding_of(model.transformer, ids)
        unembedding = _less(rows)  # [D]
        read = direction(model.transformer, unembedding, scale)  # [D]
        parts = [Part(each.layer, each.part, float(each.vector @ read)) for each in wrote]
        parts = _of_layers(parts) if by == "layer" else parts
        norm = last_stack(model.transformer)[1].final_norm
        if isinstance(norm, LayerNorm):
            parts.append(Part(None, "norm's bias", float(norm.bias.double() @ unembedding)))
        if bias is not None:
            parts.append(Part(None, "b_U", float(_less(bias))))
    words = tokens_of(model.tokenizer.target, torch.tensor([ids]))
    names = (words[0], None if foil is None else words[1])
    return LogitAttribution(by, *names, place, tokens, tuple(parts), float(_less(logits[ids])))


def _check_adds_up(model: Pretrained) -> None:
    """Raise an InputError unless the logits are linear in what the parts wrote, but for one scale."""
    elsewhere = "lens.ablate, lens.patch and lens.saliency work here"
    if last_stack(model.transformer)[1].config.norm_order != "pre":
        raise InputError(
            "logit attribution: this model normalises the stream behind each block (post-norm), and each norm divides "
            "what all parts before it wrote together, so that no part has a share of its own in the logit; "
            f"{elsewhere}"
        )
    if language_model(model, "logit attribution").transform is not None:
        raise InputError(
            "logit attribution: this model's head has a layer with an activation of its own, so that the logit is no "
            f"sum over parts; {elsewhere}"
        )


def _ids(model: Pretrained, answer: str | int, foil: str | int | None) -> list[int]:
    """The answer's token, and the foil's where there is one."""
    size, tokenizer = vocabulary(model.transformer.config).vocab_size, model.tokenizer.target
    ids = [token_id(tokenizer, answer, size)]
    return ids if foil is None else [*ids, token_id(tokenizer, foil, size, "foil")]


def _of_layers(parts: list[Part]) -> list[Part]:
    """The parts of each block added up."""
    layers = dict.fromkeys(part.layer for part in parts if part.layer is not None)
    sums = [Part(layer, "block", sum(part.value for part in parts if part.layer == layer)) for layer in layers]
    return [part for part in parts if part.layer is None] + sums


def _less(x: Tensor) -> Tensor:
    """The answer's, less the foil's where there is one. [1|2 ...] -> [...]."""
    return x[0] if len(x) == 1 else x[0] - x[1]
