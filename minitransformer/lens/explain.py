"""One head, one query, step by step: from x to what the head adds, each number the model's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.lens.figures import bars
from minitransformer.lens.head_scores import group_of
from minitransformer.lens.result import Result
from minitransformer.lens.steps import Steps, step_text
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import Step, StepsTab, Tab
from minitransformer.lens.words import aligned, bar, fit
from minitransformer.model.evaluation import evaluation
from minitransformer.model.points import Heads, heads_of, place_in

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minitransformer.images import Image
    from minitransformer.pretrained import Pretrained


@dataclass(frozen=True, eq=False)
class Explanation(Result):
    """What one head did for one query. S keys, E head width, D model width."""

    attention: str  # "encoder", "decoder" or "cross"; "attention", where there is only one
    layer: int
    head: int
    query: int  # its place among the query tokens
    query_tokens: tuple[str, ...]
    key_tokens: tuple[str, ...]
    scores: Tensor  # [S], before the softmax; -∞ where masked
    weights: Tensor  # [S]
    steps: tuple[Step, ...]
    max_error: float  # of a step's numbers, computed again from those of the one before: over the largest, or over 1

    @property
    def title(self) -> str:
        """Which head, and for whom."""
        kind = "" if self.attention == "attention" else f" ({self.attention})"
        return (
            f"Layer {self.layer}, head {self.head}{kind}: where {self.query_tokens[self.query]!r} ({self.query}) looks"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What it does not show."""
        return (
            f"Each product and the softmax were computed again; at most {self.max_error:.1e} apart.",
            "A large weight moves a value, which may be small: what the head adds is the last step, not the weights.",
        )

    def table(self) -> Table:
        """A row for each key: how well it fits, its weight, and how long the vector is that it sends."""
        values = next(step.value for step in self.steps if step.symbol == "v")  # [S E]
        sent = (self.weights[:, None] * values).norm(dim=-1)  # [S]
        rows = zip(
            range(len(self.key_tokens)),
            self.key_tokens,
            self.scores.tolist(),
            self.weights.tolist(),
            sent.tolist(),
            strict=True,
        )
        return Table(("place", "key", "score", "weight", "|weight · v|"), tuple(rows))

    def text(self) -> str:
        """The steps, then the keys with a bar for each weight."""
        numbers = zip(self.key_tokens, self.scores.tolist(), self.weights.tolist(), strict=True)
        keys = [
            [str(place), fit(token, 30), f"{score:.3f}", f"{weight:.3f}", bar(weight, 1.0)]
            for place, (token, score, weight) in enumerate(numbers)
        ]
        table = aligned([["place", "key", "score", "weight", ""], *keys], [True, False, True, True, False])
        return "\n\n".join((*map(step_text, self.steps), table))

    def facts(self) -> dict[str, object]:
        """The steps with their numbers."""
        steps = [
            {
                "symbol": step.symbol,
                "formula": step.formula,
                "code": step.code,
                "shape": step.shape,
                "value": step.value.tolist(),
            }
            for step in self.steps
        ]
        place = {"attention": self.attention, "layer": self.layer, "head": self.head, "query": self.query}
        return {**place, "max_error": self.max_error, "steps": steps}

    def figure(self) -> Figure:
        """The weights of the keys."""
        names = [f"{place} {token}" for place, token in enumerate(self.key_tokens)]
        return bars(names, self.weights.tolist(), title=self.title, value_name="weight")

    def tabs(self) -> tuple[Tab, ...]:
        """The steps."""
        return (StepsTab(self.layer, self.head, self.query, self.attention, self.query_tokens, self.steps),)


@torch.no_grad()
def explain(
    model: Pretrained,
    text: str | Image,
    layer: int,
    head: int,
    query: int | str,
    *,
    pair: str | None = None,
    target: str | None = None,
    attention: str | None = None,
) -> Explanation:
    """How one head came to look where it looks for one query, and what it then adds to the stream.

    query: the token's place, or the token itself, if the text has it once. target: what a decoder behind an encoder
    is to write. attention: "encoder", "decoder" or "cross", where the model has several.
    An InputError for a layer, head or token that does not exist says which do.
    """
    heads = heads_of(model.transformer, attention)
    layer, head = place_in("layer", layer, heads.layers), heads.head(head)
    name = heads.point(layer, "pattern").removesuffix("hook_pattern")  # "blocks.3.attn."
    reading = model.read(text, pair, target=target)
    written = reading.decoder_tokens or reading.tokens
    query_tokens = written if name.startswith("decoder.") else reading.tokens
    key_tokens = reading.tokens if heads.crosses else query_tokens
    place = query_place(query, query_tokens)
    before = heads.block_point(layer, "resid_mid" if heads.crosses else "resid_pre")
    with evaluation(model.transformer):
        output, cache = model.run_with_cache(reading.batch, names=[f"{name}*", before])
        x = _input(heads, layer, cache[before])[0]  # [T D]
    seen = _of_head(cache, name, head, heads)
    y = x if not heads.crosses or output.encoder_last_hidden_state is None else output.encoder_last_hidden_state[0]
    attn = heads.module(layer)
    steps = Steps(model.weights(attention), attn, layer, head, place, query_tokens, key_tokens)
    steps.inputs(x, y, pre=heads.stack.config.norm_order == "pre", crosses=heads.crosses)
    steps.projections(seen)
    steps.scores(seen, bias=None if heads.crosses else _bias(heads, head, place, len(key_tokens)))
    steps.outputs(seen)
    return Explanation(
        attention=group_of(model, attention),
        layer=layer,
        head=head,
        query=place,
        query_tokens=query_tokens,
        key_tokens=key_tokens,
        scores=seen["attn_scores"][place],
        weights=seen["pattern"][place],
        steps=tuple(steps.found),
        max_error=steps.max_error,
    )


def query_place(query: int | str, tokens: tuple[str, ...]) -> int:
    """The place of a token: given as a place, or as the token, with or without the mark of a word's beginning."""
    if isinstance(query, str):
        places = [i for i, token in enumerate(tokens) if query in (token, token.lstrip("Ġ▁").removeprefix("##"))]
        if not places and re.fullmatch(r"-?[0-9]{1,9}", query):
            return place_in("query", int(query), len(tokens))
        if len(places) != 1:
            found = f"is at the places {', '.join(map(str, places))}" if places else f"is not in {', '.join(tokens)}"
            raise InputError(f"query: {query!r:.60} {found:.400}; give a place, 0 to {len(tokens) - 1}")
        return places[0]
    return place_in("query", query, len(tokens))


def _of_head(cache: Mapping[str, Tensor], name: str, head: int, heads: Heads) -> dict[str, Tensor]:
    """What was captured of one attention, of one head alone: [T E], [S E], [T S] or, of its result, [T D]."""
    found = {}
    for full, x in cache.items():
        if full.startswith(name):
            part = full.removeprefix(f"{name}hook_")
            at = head * x.shape[2] // heads.stack.config.heads if part in ("k", "v", "rot_k") else head
            found[part] = x[0, at] if part in ("attn_scores", "pattern") else x[0, :, at]
    return found


def _input(heads: Heads, layer: int, x: Tensor) -> Tensor:
    """What the attention reads, from the stream before it. [1 T D] -> [1 T D]."""
    block = heads.stack.blocks[layer]
    pre = heads.stack.config.norm_order == "pre"
    if not heads.crosses:
        return block.self_attn_norm(x) if pre else x
    return block.cross_attn_norm(x) if pre and block.cross_attn_norm is not None else block.self_attn_norm(x)


def _bias(heads: Heads, head: int, place: int, keys: int) -> Tensor | None:
    """What a relative bias adds to the query's scores: [1 S]."""
    relative = heads.stack.relative_bias
    return None if relative is None else relative(keys, keys)[0, head, place][None]
