"""The parts of our model, each with what transformers puts into it: a fault shows in its own part, and nowhere else."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.config import ClassificationConfig, DistilledClassificationConfig
from minitransformer.errors import InputError
from minitransformer.model import Transformer
from minitransformer.model.heads import States
from minitransformer.model.stack import Stack
from minitransformer.model.transformer import TWICE_READ
from minitransformer.modules import TokenEmbedding
from minitransformer.modules.masks import padding_mask, self_attention_mask
from minitransformer.modules.positions import SinusoidalPositions
from minitransformer.ops import BOOKS
from minitransformer.parity.batch import Batch, read_by, real_tokens
from minitransformer.parity.ours import NoBias, RotaryTable, borrowed, open_book, prefix, sides, takeable
from minitransformer.parity.report import ALONE, ROUNDED
from minitransformer.parity.values import Values, difference

Read = Callable[[Any], Tensor]
OF_WHOLE_TEXT = ("head: seq_relationship_logits", "head: sop_logits", "head: mc_logits")


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
    expected: Tensor  # transformers' numbers
    real: Tensor | None  # True for a token, False for padding, [B T]; None for what is not about tokens
    reads: Batch  # what the part's stack was given: input_ids [B T], …
    read: Read = _all_of_it  # from the module's output to the numbers to compare
    tolerance: float = ALONE  # of the part alone

    def difference(self) -> float:
        """How far our numbers are from transformers'."""
        return difference(self.read(self.module(*self.args, **self.kwargs)), self.expected, self.real)

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


def parts(model: Transformer, batch: Batch, theirs: Values) -> list[Part]:
    """Every part, fed with transformers' numbers, which are float64. batch [B T] or [B choices T], or pixels."""
    every = _Parts(model, batch, theirs)
    x = torch.empty(0)
    for side, stack in sides(model).items():
        behind = side == "decoder" and model.encoder is not None
        x = every.add_stack(side, stack, memory=x if behind else None)  # [B T D]
    every.add_head(x)
    return every.found


@dataclass
class _Parts:
    """The parts that were found, one after the other."""

    model: Transformer
    batch: Batch
    theirs: Values
    found: list[Part] = field(default_factory=list)

    def add(self, place: str, path: str, module: nn.Module, *args: Any, side: str, **more: Any) -> Tensor:
        """One part. Returns what should come out of it."""
        real, reads = real_tokens(side, self.batch, self.model.config), read_by(side, self.batch, self.model.config)
        about_tokens = more.pop("about_tokens", True)
        kwargs = more.pop("kwargs", {})
        expected = self.theirs[place]
        self.found.append(
            Part(place, path, module, args, kwargs, expected, real if about_tokens else None, reads, **more)
        )
        return expected

    def add_stack(self, side: str, stack: Stack, memory: Tensor | None) -> Tensor:
        """Embedding, tables of positions, blocks, final norm. memory [B S D]. Returns the stack's output, [B T D]."""
        before = prefix(side, self.model)
        x = self.add_embedding(f"{before}embedding", side)
        options = {"mask": self.mask(side, stack, x), **self.add_tables(before, side, stack, x)}
        if memory is not None:
            source = read_by("encoder", self.batch, self.model.config)
            options |= {"memory": memory, "memory_mask": padding_mask(source.get("attention_mask"))}
        for i, layer in enumerate(stack.config.order):
            path = f"{side}.layers.{layer}"
            x = self.add(f"{before}block {i}", path, stack.layers[layer], x, side=side, kwargs=dict(options))
        if f"{before}final norm" in self.theirs:
            norm = nn.Identity() if stack.final_norm is None else stack.final_norm
            x = self.add(f"{before}final norm", f"{side}.final_norm", norm, x, side=side)
        return x

    def add_embedding(self, place: str, side: str) -> Tensor:
        """What the stack's first block reads."""
        target = side == "decoder" and self.model.target_embed is not None
        path, embed = ("target_embed", self.model.target_embed) if target else ("embed", self.model.embed)
        reads = takeable(self.model, read_by(side, self.batch, self.model.config))
        if "pixel_values" in reads:
            return self.add(place, path, embed, reads["pixel_values"].double(), side=side)  # type: ignore[arg-type]
        computed = isinstance(getattr(embed, "positions", None), SinusoidalPositions)
        given = (reads["input_ids"], reads.get("token_type_ids"))
        return self.add(place, path, embed, *given, side=side, tolerance=ROUNDED if computed else ALONE)  # type: ignore[arg-type]

    def add_tables(self, before: str, side: str, stack: Stack, x: Tensor) -> dict[str, Any]:
        """The tables that all blocks of a stack share, as transformers has them."""
        found: dict[str, Any] = {}
        place, length = f"{before}rotary positions", x.shape[1]
        if place in self.theirs:
            table = self.add(place, f"{side}.rotary", RotaryTable(stack), x, side=side, about_tokens=False)
            found["rotation"] = table.chunk(2, dim=-1)
        place, path = f"{before}relative bias", f"{side}.relative_bias"
        if place in self.theirs:
            module = NoBias() if stack.relative_bias is None else stack.relative_bias
            found["bias"] = self.add(place, path, module, length, length, side=side, about_tokens=False)
        return found

    def mask(self, side: str, stack: Stack, x: Tensor) -> Tensor | None:
        """The mask of the stack's self-attention."""
        reads, config = read_by(side, self.batch, self.model.config), stack.config
        sizes = {"queries": x.shape[1], "past": 0, "device": x.device}
        return self_attention_mask(reads.get("attention_mask"), causal=config.causal, window=config.window, **sizes)  # type: ignore[arg-type]

    def add_head(self, x: Tensor) -> None:
        """The pooler, and each of the head's logits. x [B T D], the last stack's output."""
        model, config = self.model, self.model.config
        last = list(sides(model))[-1]
        if "pooler" in self.theirs:
            pooler = nn.Identity() if model.pooler is None else model.pooler
            self.add("pooler", "pooler", pooler, x[:, 0], side=last, read=torch.tanh, about_tokens=False)
        embed = model.embed if model.target_embed is None else model.target_embed
        read = read_by("encoder" if isinstance(config.head, TWICE_READ) else last, self.batch, config)
        ids = self.batch.get("input_ids")
        states = States(
            hidden=x,
            pooled=self.theirs.get("pooler"),
            table=embed.tokens.weight.to(x.dtype) if isinstance(embed, TokenEmbedding) else None,
            ids=read.get("input_ids"),
            attention_mask=read.get("attention_mask"),
            choices=ids.shape[1] if ids is not None and ids.ndim == 3 else None,
            read_at=self.batch.get("mc_token_ids"),
        )
        of_whole = isinstance(config.head, ClassificationConfig | DistilledClassificationConfig)
        for place in self.theirs:
            if place.startswith("head: ") and model.head is not None:
                about_tokens = not of_whole and place not in OF_WHOLE_TEXT
                read_logits = itemgetter(place.removeprefix("head: "))
                self.add(place, "head", model.head, states, side=last, read=read_logits, about_tokens=about_tokens)
