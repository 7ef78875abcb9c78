"""Which heads do a thing that has a name: attend to the previous token, to a separator, to what followed last time.

Every type is a set of keys for each query: see `patterns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minitransformer.config import PatchEmbeddingConfig, StackConfig
from minitransformer.errors import InputError
from minitransformer.lens import figures
from minitransformer.lens.attention import attended, groups_of
from minitransformer.lens.patterns import Tally, cross_targets, scores, self_targets
from minitransformer.lens.result import Result
from minitransformer.lens.table import Table
from minitransformer.lens.tabs import AttentionGroup, GridTab
from minitransformer.lens.words import bar
from minitransformer.model.transformer import TWICE_READ
from minitransformer.modules.masks import self_attention_mask
from minitransformer.reading import Reading, shifted, tokens_of
from minitransformer.text import Batch, Tokenizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minitransformer.pretrained import Pretrained

TEXTS = (
    "The old clock on the wall stopped at noon, and nobody in the house noticed until the evening.",
    "She put the letter back into its envelope because it was not meant for her.",
    "When the rain began, the children ran inside, shook their coats and asked for something warm to drink.",
    "A small boat with a blue sail crossed the bay while the fishermen repaired their nets on the beach.",
)
REPEATED = ("duplicate", "induction")  # measured on random tokens that come twice
RANDOM_TOKENS = 25  # of which as many come again
CLEARLY = 0.3  # of the way from chance to 1: from here on a head is said to be of a type


@dataclass(frozen=True, eq=False)
class GroupTypes:
    """The scores of one kind of attention. K types, L layers, H heads."""

    name: str  # "attention", "encoder", "decoder", "cross"
    types: tuple[str, ...]  # K
    scores: Tensor  # [K L H], 0 to 1
    chance: Tensor  # [K]

    @property
    def above(self) -> Tensor:
        """(score - chance) / (1 - chance): 0 by chance, 1 where all attention falls on the type's keys. [K L H]."""
        chance = self.chance[:, None, None]
        return (self.scores - chance) / (1 - chance).clamp(min=1e-6)

    def type_of(self, layer: int, head: int) -> str:
        """The type furthest above chance; "none" if that is not clearly above it."""
        above, place = self.above[:, layer, head].max(0)
        return self.types[int(place)] if above >= CLEARLY else "none"


@dataclass(frozen=True, eq=False)
class HeadTypes(Result):
    """What each head of a model does, as far as that has a name."""

    groups: tuple[GroupTypes, ...]
    measured: str  # on what

    @property
    def title(self) -> str:
        """On what the heads were measured."""
        return f"Types of heads, measured on {self.measured}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the scores do not show."""
        return (
            "A score says where a head attends on these texts, not what the model uses it for; ablate it to see that.",
            f"Clearly above chance: at least {CLEARLY:.0%} of the way to 1. The type furthest up is the head's.",
        )

    def table(self) -> Table:
        """A row for each head: its type, that type's score and chance (of the nearest type for "none"), all scores."""
        types = tuple(dict.fromkeys(each for group in self.groups for each in group.types))
        rows = []
        for group in self.groups:
            nearest = group.above.argmax(0)  # [L H]
            for layer, head in _places(group):
                place = int(nearest[layer, head])
                scores = dict(zip(group.types, group.scores[:, layer, head].tolist(), strict=True))
                own = (group.type_of(layer, head), scores[group.types[place]], float(group.chance[place]))
                rows.append((group.name, layer, head, *own, *(scores.get(each) for each in types)))
        return Table(("group", "layer", "head", "type", "score", "chance", *types), tuple(rows))

    def text(self) -> str:
        """For each type its three highest heads, with bars. A head may be clearly above chance for several."""
        rows: list[tuple[object, ...]] = []
        for group in self.groups:
            for place, name in enumerate(group.types):
                flat = group.scores[place].flatten()
                for index in flat.topk(min(3, len(flat)))[1].tolist():
                    layer, head = divmod(index, group.scores.shape[2])
                    score, clearly = float(flat[index]), bool(group.above[place, layer, head] >= CLEARLY)
                    shown = (f"{layer}.{head}", score, bar(score, 1.0), float(group.chance[place]), clearly)
                    rows.append((group.name, name, *shown))
        return str(Table(("group", "type", "layer.head", "score", "", "chance", "clearly above"), tuple(rows)))

    def figure(self, group: str | None = None) -> Figure:
        """A small map [layers, heads] for each type, of the first group or of the one with this name."""
        found = {each.name: each for each in self.groups}
        if group is not None and group not in found:
            raise InputError(f"group: got {group!r:.40}, expected one of {', '.join(found)}")
        chosen = found[group] if group else self.groups[0]
        layers, heads = ([str(number) for number in range(size)] for size in chosen.scores.shape[1:])
        return figures.heatmaps(chosen.scores, layers, heads, chosen.types, title=f"{self.title} (layer, head)")

    def tabs(self) -> tuple[GridTab, ...]:
        """A grid for each type."""
        tabs = []
        for group in self.groups:
            layers, heads = (tuple(map(str, range(size))) for size in group.scores.shape[1:])
            for name, values in zip(group.types, group.scores, strict=True):
                label = name if len(self.groups) == 1 else f"{group.name}: {name}"
                tabs.append(GridTab(label, values, layers, heads, "layer", "head", selects=group.name))
        return tuple(tabs)


def head_types(
    model: Pretrained, texts: Sequence[Any] | str | None = None, *, target: str | Sequence[str] | None = None
) -> HeadTypes:
    """For every head, how much it does what has a name: see `self_targets` and `cross_targets`.

    texts: one or several (for a model of images, images); without them, four sentences. target: what a decoder behind
    an encoder is to write for each. `duplicate` and `induction` are measured on 25 random tokens, from a fixed seed,
    that come twice, whatever the texts: in sentences too little comes again.
    """
    images = isinstance(model.transformer.config.embed, PatchEmbeddingConfig)
    if texts is None and images:
        raise InputError("texts: got none, and this model reads images; give some")
    given: list[Any] = list(TEXTS) if texts is None else list(texts) if isinstance(texts, list | tuple) else [texts]
    targets = [target] * len(given) if target is None or isinstance(target, str) else list(target)
    if not given or len(targets) != len(given):
        raise InputError(f"texts: got {len(given)} and {len(targets)} targets, expected one or more, as many of both")
    tallies: dict[str, dict[str, Tally]] = {}
    for text, written in zip(given, targets, strict=True):
        _add(tallies, model, model.read(text, target=written), repeated=False)
    if not images:
        _add(tallies, model, _random_twice(model), repeated=True)
    groups = tuple(_group(name, found) for name, found in tallies.items())
    words = "sentences" if texts is None else "images" if images else "texts"
    again = "" if images else " and random tokens that come twice"
    return HeadTypes(groups, f"{len(given)} {words[:-1] if len(given) == 1 else words}{again}")


def _add(tallies: dict[str, dict[str, Tally]], model: Pretrained, reading: Reading, *, repeated: bool) -> None:
    """Measure the heads on one text, and add what comes of it."""
    for group in groups_of(attended(model, reading), reading):
        targets, allowed = _targets(model, reading, group)
        chosen = {name: keys for name, keys in targets.items() if (name in REPEATED) == repeated}
        own = tallies.setdefault(group.name, {})
        for name, tally in scores(group.weights, chosen, allowed).items():
            own[name] = own[name] + tally if name in own else tally


def _targets(model: Pretrained, reading: Reading, group: AttentionGroup) -> tuple[dict[str, Tensor], Tensor | None]:
    """The keys of each type for a text, and which keys a query may see."""
    queries, keys = group.weights.shape[2:]
    if group.name == "cross":
        return cross_targets(queries, keys), None
    transformer = model.transformer
    stack = transformer.decoder if group.name == "decoder" or transformer.encoder is None else transformer.encoder
    if "input_ids" not in reading.batch:  # patches: none is another's duplicate
        targets = self_targets(torch.arange(queries), torch.zeros(queries, dtype=torch.bool))
    else:
        ids = reading.batch["decoder_input_ids" if group.name == "decoder" else "input_ids"][0].cpu()  # [T]
        tokenizer = model.tokenizer.target if group.name == "decoder" else model.tokenizer
        targets = self_targets(ids, torch.isin(ids, torch.tensor(sorted(_special_ids(tokenizer)), dtype=ids.dtype)))
    return targets, None if stack is None else _allowed(stack.config, queries)


def _allowed(config: StackConfig, size: int) -> Tensor | None:
    mask = self_attention_mask(
        None, causal=config.causal, window=config.window, queries=size, past=0, device=torch.device("cpu")
    )
    return None if mask is None else mask.expand(1, 1, size, size)[0, 0]  # [T T]


def _special_ids(tokenizer: Tokenizer) -> set[int]:
    ids = (tokenizer.backend.token_to_id(token) for token in tokenizer.special.values())
    return {number for number in ids if number is not None}


def _random_twice(model: Pretrained) -> Reading:
    """Random ordinary tokens, twice, between the special tokens that the tokenizer puts around a text."""
    tokenizer, transformer = model.tokenizer, model.transformer
    around = tokenizer.encodings("a")[0]
    inside = [place for place, sequence in enumerate(around.sequence_ids) if sequence is not None]
    before, after = list(around.ids[: inside[0]]), list(around.ids[inside[-1] + 1 :])
    sizes = [len(tokenizer), len(tokenizer.target), *(e.config.vocab_size for e in _embeddings(model))]
    special = _special_ids(tokenizer) | _special_ids(tokenizer.target)
    ordinary = torch.tensor([number for number in range(min(sizes)) if number not in special])
    room = (model.max_length or 2 * RANDOM_TOKENS + 9) - len(before) - len(after)
    count = max(1, min(RANDOM_TOKENS, room // 2, len(ordinary)))
    order = torch.randperm(len(ordinary), generator=torch.Generator().manual_seed(0))
    row = ordinary[order[:count]].tolist() * 2
    ids = torch.tensor([[*before, *row, *after]], device=model.device)  # [1 T]
    batch = Batch({"input_ids": ids})
    if transformer.encoder is None or transformer.decoder is None:
        return Reading(batch, tokens_of(tokenizer, ids))
    written = ids if isinstance(transformer.config.head, TWICE_READ) else torch.tensor([[*row, 0]], device=model.device)
    batch["decoder_input_ids"] = shifted(written, transformer.config)
    return Reading(batch, tokens_of(tokenizer, ids), tokens_of(tokenizer.target, batch["decoder_input_ids"]))


def _embeddings(model: Pretrained) -> list[Any]:
    transformer = model.transformer
    return [embed for embed in (transformer.embed, transformer.target_embed) if embed is not None]


def _group(name: str, found: Mapping[str, Tally]) -> GroupTypes:
    if not found:
        raise InputError(f"{name}: no head can be told from these texts; give longer ones")
    means = torch.stack([tally.mass / tally.queries for tally in found.values()])  # [K L H]
    return GroupTypes(name, tuple(found), means, torch.tensor([t.chance / t.queries for t in found.values()]))


def _places(group: GroupTypes) -> list[tuple[int, int]]:
    layers, heads = group.scores.shape[1:]
    return [(layer, head) for layer in range(layers) for head in range(heads)]
