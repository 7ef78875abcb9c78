"""Where each token attends: all weights of all heads for one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.images import Image
from minitransformer.lens import figures
from minitransformer.lens.result import Result
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import AttentionGroup, AttentionTab
from minitransformer.lens.words import bar, fit
from minitransformer.model import Output
from minitransformer.model.inside import chosen_points
from minitransformer.model.memory import check_memory
from minitransformer.model.points import place_in
from minitransformer.reading import Reading
from minitransformer.tasks.inference import inference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minitransformer.pretrained import Pretrained

NOTE = "A weight says how much of a key's value enters, not how much that value matters for the model's answer."


@dataclass(frozen=True, eq=False)
class Attention(Result):
    """The weights of each kind of attention that the model has. L layers, H heads, T queries, S keys."""

    groups: tuple[AttentionGroup, ...]  # "attention"; or "encoder", "decoder" and "cross". Weights [L H T S] each

    @property
    def title(self) -> str:
        """Whose attention, and how much of it."""
        sizes = ", ".join(
            f"{group.name}: {' × '.join(map(str, group.weights.shape[:2]))} heads, "
            f"{len(group.query_tokens)} queries, {len(group.key_tokens)} keys"
            for group in self.groups
        )
        return f"Attention weights ({sizes})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What weights do not show."""
        return (NOTE,)

    def group(self, name: str | None = None) -> AttentionGroup:
        """The group of that name; without one, the first."""
        found = {group.name: group for group in self.groups}
        if name is not None and name not in found:
            raise InputError(f"group: got {name!r:.40}, expected one of {', '.join(found)}")
        return self.groups[0] if name is None else found[name]

    def table(self) -> Table:
        """A row for each head: its strongest pair of tokens, and the mean entropy of its rows in bits.

        Queries that see one key only, such as a decoder's first, are no pair: they have no choice. 0 bits: each query
        attends to one key; log2 of the number of keys: to all alike. Every weight: `weights_table`.
        """
        rows = [row for group in self.groups for row in _summary(group)]
        return Table(("group", "layer", "head", "query", "key", "weight", "entropy (bits)"), tuple(rows))

    def weights_table(self) -> Table:
        """Every weight: group, layer, head, the query's place and token, the key's, the weight."""
        names = ("group", "layer", "head", "query", "query_token", "key", "key_token", "weight")
        rows = []
        for group in self.groups:
            for layer, heads in zip(layers_of(group), group.weights.tolist(), strict=True):
                for head, matrix in enumerate(heads):
                    for query, line in enumerate(matrix):
                        for key, weight in enumerate(line):
                            places = (query, group.query_tokens[query], key, group.key_tokens[key])
                            rows.append((group.name, layer, head, *places, weight))
        return Table(names, tuple(rows))

    def text(self) -> str:
        """The heads, each with its strongest pair, and a bar for its weight."""
        table = self.table()
        shown = [
            (
                *row[:3],
                f"{fit(str(row[3]), 20)} → {fit(str(row[4]), 20)}",
                row[5],
                bar(float(str(row[5])), 1.0, 10),
                row[6],
            )
            for row in table.rows
        ]
        return str(Table(("group", "layer", "head", "strongest pair", "weight", "", "entropy (bits)"), tuple(shown)))

    def facts(self) -> dict[str, object]:
        """Of each group its tokens, and all its weights: [layer][head][query][key]."""
        return {
            "attention": {
                group.name: {
                    "query_tokens": list(group.query_tokens),
                    "key_tokens": list(group.key_tokens),
                    "layers": list(layers_of(group)),
                    "weights": group.weights.tolist(),
                }
                for group in self.groups
            }
        }

    def figure(self, *, layer: int | None = None, head: int | None = None, group: str | None = None) -> Figure:
        """One head's weights, or all heads of a layer beside each other. Without `layer`: of the first there is."""
        chosen = self.group(group)
        known = layers_of(chosen)
        layer = known[0] if layer is None else known[-1] if layer == -1 else layer
        check_known("layer", layer, known)
        weights = chosen.weights[known.index(layer)]  # [H T S]
        title = f"{chosen.name}, layer {layer}" if len(self.groups) > 1 else f"Layer {layer}"
        if head is None:
            names = [f"head {number}" for number in range(len(weights))]
            return figures.heatmaps(weights, chosen.query_tokens, chosen.key_tokens, names, title=title)
        head = place_in("head", head, len(weights), from_the_end=False)
        return figures.heatmap(
            weights[head],
            chosen.query_tokens,
            chosen.key_tokens,
            title=f"{title}, head {head}",
            row_name="query",
            column_name="key",
        )

    def tabs(self) -> tuple[AttentionTab, ...]:
        """All weights."""
        return (AttentionTab(self.groups, layer=layers_of(self.groups[0])[0]),)

    def to_bertviz(self) -> dict[str, Any]:
        """The arguments of bertviz's `head_view` and `model_view`: weights [1 H T S] for each layer, and tokens."""
        weights = {group.name: [layer[None] for layer in group.weights] for group in self.groups}
        if len(self.groups) == 1:
            only = self.groups[0]
            second = {} if only.query_second is None else {"sentence_b_start": only.query_second}
            return {"attention": weights[only.name], "tokens": list(only.query_tokens), **second}
        cross, fewest = self.group("cross"), min(map(len, weights.values()))
        return {  # of stacks of different depth it shows the layers that all have
            **{f"{name}_attention": layers[:fewest] for name, layers in weights.items()},
            "encoder_tokens": list(cross.key_tokens),
            "decoder_tokens": list(cross.query_tokens),
        }


def attention(
    model: Pretrained,
    text: str | Image,
    pair: str | None = None,
    *,
    target: str | None = None,
    layers: Sequence[int] | None = None,
) -> Attention:
    """Every attention weight of the model for one text, pair of texts or image: transformers' `attentions`.

    target: what the decoder behind an encoder is to write; without one, it writes it itself. layers: only these, by
    their numbers; an InputError says which there are.
    """
    reading = model.read(text, pair, target=target)
    output = attended(model, reading)
    return Attention(tuple(_only(group, layers) for group in groups_of(output, reading)))


def groups_of(output: Output, reading: Reading) -> tuple[AttentionGroup, ...]:
    """The attentions of an output, with their tokens."""
    tokens, decoder_tokens, second = reading.tokens, reading.decoder_tokens, reading.second
    if decoder_tokens is None:
        return (_group("attention", output.attentions, tokens, tokens, second, second),)
    return (
        _group("encoder", output.encoder_attentions, tokens, tokens, second, second),
        _group("decoder", output.decoder_attentions, decoder_tokens, decoder_tokens, None, None),
        _group("cross", output.cross_attentions, decoder_tokens, tokens, None, second),
    )


def layers_of(group: AttentionGroup) -> tuple[int, ...]:
    """The numbers of the group's layers."""
    return tuple(range(len(group.weights))) if group.layers is None else group.layers


def check_known(name: str, number: int, known: Sequence[int]) -> None:
    """Raise an InputError, which says which there are, unless the layer or head of that number is among `known`."""
    if isinstance(number, bool) or number not in known:
        there = ", ".join(map(str, known))
        raise InputError(f"{name}: got {number!r:.40}, expected one of those there are: {there}")


def attended(model: Pretrained, reading: Reading, **options: bool) -> Output:
    """What the model gives for a text, with all attentions. An InputError where memory would not hold them."""
    patterns = chosen_points(model.transformer, "*attn.hook_pattern")
    check_memory(model.transformer, patterns.values(), reading.batch)
    with inference(model.transformer):
        return model(**reading.batch, output_attentions=True, **options)


def entropy(weights: Tensor) -> Tensor:
    """-Σ p log2 p of each row, in bits. [... S] -> [...]."""
    return torch.special.entr(weights).sum(-1) / torch.tensor(2.0).log()


def _group(
    name: str,
    weights: tuple[Tensor, ...] | None,
    queries: tuple[str, ...],
    keys: tuple[str, ...],
    query_second: int | None,
    key_second: int | None,
) -> AttentionGroup:
    """The weights of one text, N × [1 H T S], as [N H T S] on the CPU."""
    if weights is None:
        raise InputError(f"{name}: this model gives no attention weights")
    stacked = torch.cat(weights).float().cpu()  # [L H T S]
    return AttentionGroup(name, stacked, queries, keys, query_second, key_second)


def _only(group: AttentionGroup, layers: Sequence[int] | None) -> AttentionGroup:
    """The group with these layers alone."""
    if layers is None:
        return group
    count = len(group.weights)
    if not isinstance(layers, Sequence) or not len(layers):
        raise InputError(f"layers: got {layers!r:.40}, expected a list, some of 0 to {count - 1}; leave it out for all")
    chosen = sorted({place_in(f"layers ({group.name})", layer, count) for layer in layers})
    return AttentionGroup(
        group.name,
        group.weights[chosen],
        group.query_tokens,
        group.key_tokens,
        group.query_second,
        group.key_second,
        tuple(chosen),
    )


def _summary(group: AttentionGroup) -> list[tuple[object, ...]]:
    """A row for each head: the strongest pair of its tokens, and its mean entropy."""
    entropies = entropy(group.weights).mean(-1).tolist()  # [L H]
    rows: list[tuple[object, ...]] = []
    for place, layer in enumerate(layers_of(group)):
        for head, weights in enumerate(group.weights[place]):
            free = (weights > 0).sum(-1, keepdim=True) > 1  # [T 1]: it could have attended elsewhere
            query, key = divmod(int(weights.masked_fill(~free & free.any(), 0).argmax()), weights.shape[1])
            pair = (group.query_tokens[query], group.key_tokens[key], float(weights[query, key]))
            rows.append((group.name, layer, head, *pair, entropies[place][head]))
    return rows
