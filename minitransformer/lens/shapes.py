"""How large everything in a model is, before anything is computed: shapes, parameters, FLOPs, memory."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from minitransformer.config import PatchEmbeddingConfig
from minitransformer.errors import InputError, refuse
from minitransformer.lens import figures
from minitransformer.lens.parts import letters_of, steps
from minitransformer.lens.result import Result
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import TableTab
from minitransformer.lens.words import bar
from minitransformer.model import Output, Transformer
from minitransformer.model.transformer import TWICE_READ

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minitransformer.images import Image
    from minitransformer.pretrained import Pretrained

TOKENS = 128  # where neither a text nor a number is given


@dataclass(frozen=True)
class Part:
    """One step of the computation, of all layers that take it. Letters as everywhere: B batch, T queries, S keys, …"""

    name: str  # "blocks.self_attn.q"
    formula: str  # "x W_Q + b_Q"
    symbols: str  # the shape of what it gives: "[B H T E]"
    sizes: tuple[int, ...]  # the same in numbers
    times: int  # how often it is computed: the layers
    parameters: int  # of all layers; a shared one counts once, where it comes first
    flops: int  # of its matrix products, all layers; one multiplication and one addition are two
    bytes: int  # of what it gives, all layers


@dataclass(frozen=True)
class Shapes(Result):
    """The parts of a model in the order of the computation."""

    parts: tuple[Part, ...]
    letters: Mapping[str, int]  # "B" -> 1, …
    pattern_bytes: int  # of all attention weights together
    residual_bytes: int  # of the residual stream before and after every block

    @property
    def title(self) -> str:
        """The sizes that the letters stand for."""
        return "Shapes: " + ", ".join(f"{letter} = {size:,}" for letter, size in self.letters.items())

    @property
    def notes(self) -> tuple[str, ...]:
        """How it is counted."""
        return (
            "FLOPs are those of matrix products, with 2 for a multiplication and the addition after it.",
            f"To keep all attention weights takes {_memory(self.pattern_bytes)}, "
            f"the residual stream around every block {_memory(self.residual_bytes)}.",
        )

    @property
    def parameters(self) -> int:
        """Of the whole model; shared ones count once."""
        return sum(part.parameters for part in self.parts)

    @property
    def flops(self) -> int:
        """Of one forward pass."""
        return sum(part.flops for part in self.parts)

    def facts(self) -> dict[str, object]:
        """The totals."""
        return {
            **{name: getattr(self, name) for name in ("parameters", "flops", "pattern_bytes", "residual_bytes")},
            "letters": dict(self.letters),
        }

    def table(self) -> Table:
        """A row for each part, and the totals."""
        rows = [
            (p.name, p.formula, p.symbols, str(list(p.sizes)), p.times, p.parameters, p.flops, p.bytes)
            for p in self.parts
        ]
        total = ("total", "", "", "", None, self.parameters, self.flops, sum(part.bytes for part in self.parts))
        names = ("part", "formula", "gives", "sizes", "times", "parameters", "FLOPs", "bytes")
        return Table(names, (*rows, total))

    def text(self) -> str:
        """The table, with a bar for the FLOPs of each part."""
        table, most = self.table(), max(part.flops for part in self.parts)
        bars = [*(bar(part.flops, most, 10) for part in self.parts), ""]
        rows = ((*row[:-1], each, row[-1]) for row, each in zip(table.rows, bars, strict=True))
        return str(Table((*table.columns[:-1], "", table.columns[-1]), tuple(rows)))

    def figure(self) -> Figure:
        """The FLOPs of each part as bars."""
        counted = [part for part in self.parts if part.flops]
        flops = [float(part.flops) for part in counted]
        return figures.bars([part.name for part in counted], flops, title=self.title, value_name="FLOPs")

    def tabs(self) -> tuple[TableTab, ...]:
        """The table."""
        return (TableTab("shapes", self.table()),)


def shapes(
    model: Pretrained | Transformer,
    text: str | Image | None = None,
    pair: str | None = None,
    *,
    target: str | None = None,
    batch: int = 1,
    tokens: int | None = None,
    target_tokens: int | None = None,
) -> Shapes:
    """The shape, parameters, FLOPs and memory of every part, for a text or for `batch` texts of so many `tokens`.

    target_tokens: what the decoder behind an encoder reads. The model is run without its numbers (on torch's "meta"
    device), so this takes no time and no memory, however large it is.
    """
    transformer = model if isinstance(model, Transformer) else model.transformer
    config = transformer.config
    _size("batch", batch)
    if text is None:
        refuse("without a text there is nothing to read it with", pair=pair, target=target)
    if text is not None:
        if isinstance(model, Transformer):
            raise InputError("text: got one, and this model has no tokenizer; give batch and tokens")
        if tokens is not None or target_tokens is not None:
            raise InputError("tokens: got a text as well, which has its own number; give one of the two")
        inputs = {
            name: x.expand(batch, *x.shape[1:]) for name, x in model.read(text, pair, target=target).batch.items()
        }
    elif isinstance(config.embed, PatchEmbeddingConfig):
        if tokens is not None or target_tokens is not None:
            raise InputError("tokens: this model reads images, all of one size; leave it out")
        inputs = {"pixel_values": torch.zeros(batch, config.embed.channels, *config.embed.image_size)}
    else:
        inputs = _inputs(transformer, batch, tokens, target_tokens)
    skeleton = without_numbers(transformer)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = skeleton(**{name: x.to("meta") for name, x in inputs.items() if not name.endswith("attention_mask")})
    flops = {str(name): sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    return _result(transformer, output, flops)


def without_numbers(transformer: Transformer) -> Transformer:
    """The same model on the device "meta", computing by hand: it has shapes and takes no memory."""
    memo: dict[int, object] = {}
    for parameter in transformer.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in transformer.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(transformer, memo).eval().use("by_hand")


def _size(name: str, number: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InputError(f"{name}: got {number!r:.40}, expected a whole number, 1 or more")
    return number


def _inputs(transformer: Transformer, batch: int, tokens: int | None, target_tokens: int | None) -> dict[str, Tensor]:
    """Ids of these numbers: of which tokens makes no difference."""
    config = transformer.config
    two = config.encoder is not None and config.decoder is not None
    sizes = {"tokens": (tokens, config.embed), "target_tokens": (target_tokens, config.target_embed or config.embed)}
    ids = {}
    for name, (count, embed) in sizes.items():
        most = getattr(embed, "max_length", None)
        count = min(TOKENS, most or TOKENS) if count is None else _size(name, count)
        if most is not None and count > most:
            raise InputError(f"{name}: got {count}, and the model takes {most}; give at most that")
        ids[name] = torch.zeros(batch, count, dtype=torch.int64)
    if not two:
        if target_tokens is not None:
            raise InputError("target_tokens: this model has one stack, which reads tokens; leave it out")
        return {"input_ids": ids["tokens"]}
    twice = isinstance(config.head, TWICE_READ)
    return {"input_ids": ids["tokens"], "decoder_input_ids": ids["tokens" if twice else "target_tokens"]}


def _result(transformer: Transformer, output: Output, flops: Mapping[str, int]) -> Shapes:
    """The parts with their numbers; what belongs to none is the last, "other"."""
    itemsize = next(transformer.parameters()).dtype.itemsize
    left = {name: parameter.numel() for name, parameter in transformer.named_parameters()}  # not yet counted
    parts = []
    for step in steps(transformer, output):
        mine = [name for name in left if any(fnmatchcase(name, f"{each}.*") or name == each for each in step.modules)]
        count = sum(left.pop(name) for name in mine)
        own = _inside(flops, step.inside) if step.inside else sum(_of(flops, each) for each in step.modules)
        size = math.prod(step.sizes) * step.times * itemsize
        parts.append(Part(step.name, step.formula, step.symbols, step.sizes, step.times, count, own, size))
    rest = flops.get("Global", 0) - sum(part.flops for part in parts)
    if rest or left:
        parts.append(Part("other", "what is not used here, or was added", "[]", (), 1, sum(left.values()), rest, 0))
    patterns = sum(part.bytes for part in parts if part.name.endswith("attn.pattern"))
    return Shapes(
        tuple(parts), letters_of(transformer, output), patterns, _residual_numbers(transformer, output) * itemsize
    )


def _of(flops: Mapping[str, int], path: str) -> int:
    """The FLOPs of the modules that a path with stars means."""
    return sum(count for name, count in flops.items() if fnmatchcase(name, f"Transformer.{path}"))


def _inside(flops: Mapping[str, int], path: str) -> int:
    """Half of what an attention computes besides its projections: q kᵀ costs as much as weights · v."""
    return (_of(flops, path) - sum(_of(flops, f"{path}.{each}") for each in "qkvo")) // 2


def _residual_numbers(transformer: Transformer, output: Output) -> int:
    """How many numbers the residual streams hold, before each block and after the last."""
    states = {transformer.encoder: output.encoder_last_hidden_state, transformer.decoder: output.last_hidden_state}
    if transformer.decoder is None:
        states = {transformer.encoder: output.last_hidden_state}
    found = ((stack, state) for stack, state in states.items() if stack is not None and state is not None)
    return sum((len(stack.blocks) + 1) * state.numel() for stack, state in found)


def _memory(count: float) -> str:
    """Bytes, as people read them."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
