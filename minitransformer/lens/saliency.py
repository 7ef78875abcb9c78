"""Saliency: how much each token, or each patch of an image, matters for one number of the output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from minitransformer.config import PatchEmbeddingConfig
from minitransformer.errors import InputError
from minitransformer.images import Image
from minitransformer.lens import figures
from minitransformer.lens.answers import answer_of
from minitransformer.lens.gradients import (
    Rows,
    Score,
    check_gradients,
    gradient_x_input,
    integrated_gradients,
    rows_read,
    score_of,
)
from minitransformer.lens.occlusion import occlusion
from minitransformer.lens.result import Result
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import GridTab, Tab
from minitransformer.lens.words import bar, visible
from minitransformer.model.evaluation import evaluation
from minitransformer.modules import TokenEmbedding
from minitransformer.pretrained import Pretrained
from minitransformer.reading import Reading
from minitransformer.text import Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Literal["integrated_gradients", "gradient_x_input", "occlusion"]
METHODS = {
    "integrated_gradients": "Integrated gradients of {}",
    "gradient_x_input": "Gradient × input of {}",
    "occlusion": "Drop of {} by occlusion",
}
ENOUGH = 0.01  # of the completeness error: above it, there are twice as many steps, and again
MOST_STEPS = 400  # are taken unasked


@dataclass(frozen=True, eq=False)
class Attributed:
    """The tokens that one stack reads, or the patches of an image, and what each is worth."""

    name: str  # "text", "image", "decoder"
    tokens: tuple[str, ...]  # T
    values: Tensor  # float64 [T], signed


@dataclass(frozen=True, eq=False)
class Saliency(Result):
    """How much each thing that the model read matters for one number of its output, and in which direction."""

    method: Method
    explained: str  # "the logit of positive"
    value: float  # of that number
    inputs: tuple[Attributed, ...]  # of two stacks the encoder's, then the decoder's
    patches: tuple[int, int] | None = None  # rows and columns of an image's
    baseline: str | None = None  # what stands for no token: one of the vocabulary, or "zero" (not for gradient × input)
    baseline_value: float = 0.0  # the number for a text of nothing but that
    steps: int | None = None  # that integrated gradients took from there to the text

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens of the text; of an image, the patches."""
        return self.inputs[0].tokens

    @property
    def values(self) -> Tensor:
        """What each of them is worth: float64 [T]."""
        return self.inputs[0].values

    @property
    def completeness_error(self) -> float | None:
        """|sum - (F(x) - F(x'))| / |F(x) - F(x')|: how far integrated gradients are from adding up, as they should."""
        if self.method != "integrated_gradients":
            return None
        difference = self.value - self.baseline_value
        left = abs(self.total - difference)
        return left / abs(difference) if difference else float(left > 0)

    @property
    def total(self) -> float:
        """The sum of all values."""
        return sum(float(each.values.sum()) for each in self.inputs)

    @property
    def title(self) -> str:
        """The headline."""
        return METHODS[self.method].format(self.explained)

    @property
    def notes(self) -> tuple[str, ...]:
        """What this does not show."""
        if self.method == "occlusion":
            alone = f"Each alone is replaced with {self.baseline}: of two that say the same, neither is missed."
            return (alone, "The values need not add up to anything; another baseline, other numbers.")
        error = self.completeness_error
        if error is None:
            return ("A gradient tells of small changes of this input; the values need not add up to anything.",)
        common = (
            f"It tells what sets this input apart from nothing but {self.baseline}; another baseline, other numbers."
        )
        if error <= ENOUGH:
            return (common,)
        far = f"The values miss their sum by {error:.1%} after {self.steps} steps: give more steps or another baseline."
        return (common, far)

    def table(self) -> Table:
        """A row for each token."""
        rows = [
            (each.name, place, token, value)
            for each in self.inputs
            for place, (token, value) in enumerate(zip(each.tokens, each.values.tolist(), strict=True))
        ]
        return Table(("input", "position", "token", "saliency"), tuple(rows))

    def text(self) -> str:
        """A bar for each token; how the values add up."""
        rows: Any = self.table().rows
        most = max(float(each.values.abs().max()) for each in self.inputs)
        cells = [(*row, f"{value:+.4f}", bar(abs(value), most)) for *row, value in rows]
        table = Table(("input", "position", "token", "saliency", ""), tuple(cells))
        return f"{self.explained} is {self.value:.4f}\n\n{table}\n\n{self._sum()}"

    def figure(self) -> Figure:
        """A bar for each token; of an image, its patches."""
        if self.patches is not None:
            tab = self.tabs()[0]
            assert isinstance(tab, GridTab)
            return figures.heatmap(tab.values, tab.row_labels, tab.column_labels, title=self.title, signed=True)
        pairs = [(each.name, token) for each in self.inputs for token in each.tokens]
        names = [f"decoder {token}" if name == "decoder" else token for name, token in pairs]
        values = [value for each in self.inputs for value in each.values.tolist()]
        return figures.bars(names, values, title=self.title, value_name="saliency")

    def tabs(self) -> tuple[Tab, ...]:
        """One row of tokens for each stack; of an image, its patches as they lie."""
        if self.patches is not None:
            rows, columns = (tuple(map(str, range(count))) for count in self.patches)
            grid = self.values.reshape(self.patches)
            return (GridTab("saliency", grid, rows, columns, "row", "column", signed=True),)
        return tuple(
            GridTab(
                f"saliency: {each.name}", each.values[None], (each.name,), each.tokens, "input", "token", signed=True
            )
            for each in self.inputs
        )

    def facts(self) -> dict[str, object]:
        """What was explained, and whether it adds up."""
        names = ("method", "explained", "value", "total", "baseline", "steps", "completeness_error")
        return {name: getattr(self, name) for name in names}

    def _sum(self) -> str:
        if self.completeness_error is None:
            return f"sum {self.total:+.4f}"
        return (
            f"sum {self.total:+.4f}; F(text) - F(baseline) = {self.value:.4f} - {self.baseline_value:.4f} = "
            f"{self.value - self.baseline_value:+.4f}, the baseline being {self.baseline}\n"
            f"completeness error {self.completeness_error:.2%}, {self.steps} steps"
        )


def saliency(
    model: Pretrained,
    text: str | Image,
    pair: str | None = None,
    *,
    answer: str | int | None = None,
    position: int | None = None,
    method: Method = "integrated_gradients",
    steps: int = 50,
    baseline: str | None = None,
    target: str | None = None,
) -> Saliency:
    """How much each token (special ones too) or patch of an image matters for a logit.

    answer: a classifier's label, or a language model's token, at a position (by default the last one, or the only
    masked one); by default the model's own answer. A head for spans: the score of its best span. target: what a decoder
    behind an encoder is to write; its tokens count, too.
    method: "integrated_gradients" and "gradient_x_input", by gradients at the rows of the tokens (`gradients.py`);
    "occlusion", how much the logit drops when one of them is replaced (`occlusion.py`).
    baseline, of integrated gradients and occlusion: what stands for no token, "pad" (or the end token, where there is
    none), "mask", "unk" or "zero"; an image's is "zero". Where integrated gradients miss their sum by more than 1 %,
    `steps` are doubled, up to 400.
    """
    if method not in tuple(METHODS):
        raise InputError(f"method: got {method!r}, expected one of {', '.join(METHODS)}")
    if method != "occlusion":
        check_gradients()
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= 1000:
        raise InputError(f"steps: got {steps!r}, expected 1 to 1000")
    if method == "gradient_x_input" and baseline is not None:
        raise InputError(f"baseline: got {baseline!r}, and gradient × input has none; leave baseline out")
    reading = model.read(text, pair, target=target)
    with evaluation(model.transformer):
        with torch.no_grad():
            chosen = answer_of(model, reading, model(**reading.batch), answer, position)
        score = score_of(model.transformer, reading.batch, chosen)
        rows = rows_read(model.transformer, reading.batch)
        found = Saliency(method, chosen.name, _number(score, rows), (), _patches(model))
        if method == "gradient_x_input":
            return replace(found, inputs=_inputs(reading, gradient_x_input(score, rows)))
        name, start = _baseline(model, rows, baseline)
        found = replace(found, baseline=name, baseline_value=_number(score, start))
        if method == "occlusion":
            return replace(found, inputs=_inputs(reading, occlusion(score, rows, start)))
        return _integrated(found, reading, score, rows, start, steps)


def _integrated(found: Saliency, reading: Reading, score: Score, rows: Rows, start: Rows, steps: int) -> Saliency:
    """The result with its values, by as many steps as it takes."""
    while True:
        inputs = _inputs(reading, integrated_gradients(score, rows, start, steps))
        found = replace(found, inputs=inputs, steps=steps)
        if steps >= MOST_STEPS or (found.completeness_error or 0.0) <= ENOUGH:
            return found
        steps = min(2 * steps, MOST_STEPS)


def _number(score: Score, rows: Rows) -> float:
    with torch.no_grad():
        return float(score(rows))


def _inputs(reading: Reading, values: Rows) -> tuple[Attributed, ...]:
    """The values [T] of each point, with their tokens."""
    found = []
    for name, each in values.items():
        decoder = name.startswith("decoder.")
        tokens = reading.decoder_tokens if decoder and reading.decoder_tokens is not None else reading.tokens
        kind = "decoder" if decoder else "image" if name.endswith("hook_patch_embed") else "text"
        found.append(Attributed(kind, tokens[-len(each) :], each.cpu()))  # an image's special tokens are no patches
    return tuple(found)


def _patches(model: Pretrained) -> tuple[int, int] | None:
    embed = model.transformer.config.embed
    if not isinstance(embed, PatchEmbeddingConfig):
        return None
    rows, columns = (size // patch for size, patch in zip(embed.image_size, embed.patch_size, strict=True))
    return rows, columns


def _baseline(model: Pretrained, rows: Rows, baseline: str | None) -> tuple[str, Rows]:
    """What stands for no token: its name, and rows of it in place of all others."""
    images = _patches(model) is not None
    expected = ("zero",) if images else ("pad", "mask", "unk", "zero")
    chosen = expected[0] if baseline is None else baseline
    if chosen not in expected:
        raise InputError(f"baseline: got {baseline!r}, expected {' or '.join(expected)}")
    if chosen == "zero":
        return "zero", {name: torch.zeros_like(x) for name, x in rows.items()}
    embed, tokenizer = model.transformer.embed, model.tokenizer
    start = {}
    for name, x in rows.items():
        decoder = name.startswith("decoder.")
        table = cast("TokenEmbedding", model.transformer.target_embed or embed if decoder else embed).tokens.weight
        start[name] = table[_special(tokenizer.target if decoder else tokenizer, chosen)].detach().expand_as(x)
    return visible(str(tokenizer.backend.id_to_token(_special(tokenizer, chosen)))), start


def _special(tokenizer: Tokenizer, role: str) -> int:
    """The id of the token with that role."""
    ids = {"pad": tokenizer.pad_token_id, "mask": tokenizer.mask_token_id, "unk": tokenizer.unk_token_id}
    ids["pad"] = next((n for n in (ids["pad"], tokenizer.eos_token_id, ids["unk"]) if n is not None), None)
    found = ids[role]
    if found is None:
        raise InputError(f"baseline: this tokenizer has no {role} token; try baseline='zero'")
    return found
