"""Patterns of attention that have a name: which keys they are, and how much of a head's attention falls on them.

A head's score is the attention that falls on a type's keys, the mean over all queries that have such a key: 0 to 1. Its
chance is what a head gets that attends to all it may see alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tally:
    """Attention that fell on the keys of a type, added up over queries."""

    mass: Tensor  # [L H]
    chance: float
    queries: int

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.mass + other.mass, self.chance + other.chance, self.queries + other.queries)


def scores(weights: Tensor, targets: Mapping[str, Tensor], allowed: Tensor | None = None) -> dict[str, Tally]:
    """How much of each query's attention falls on a type's keys, for each type whose keys some query may see.

    weights [L H T S], rows summing to 1; targets: type -> bool [T S]; allowed bool [T S]: what a query may attend to.
    Chance is that of equal weights on everything allowed.
    """
    if allowed is None:
        allowed = torch.ones(weights.shape[2:], dtype=torch.bool)
    found = {}
    for name, keys in targets.items():
        keys = keys & allowed
        defined = keys.any(-1)  # [T]
        if defined.any():
            mass = (weights * keys).sum(-1)[..., defined].sum(-1)  # [L H]
            chance = (keys.sum(-1) / allowed.sum(-1).clamp(min=1))[defined].sum()
            found[name] = Tally(mass, float(chance), int(defined.sum()))
    return found


def self_targets(ids: Tensor, special: Tensor) -> dict[str, Tensor]:
    """The keys of each type in self-attention: bool [T T]. ids int [T], special bool [T].

    previous, next: the token before, after. self: the query's own place. first: place 0, for all others. separator:
    special tokens except the one at place 0. duplicate: other places of the same token. induction: places behind an
    earlier one of the same token (Olsson et al. 2022, "In-context Learning and Induction Heads"). For the last two,
    special tokens do not count.
    """
    places = torch.arange(len(ids))
    query, key = places[:, None], places[None]  # [T 1], [1 T]
    same = (ids[:, None] == ids[None]) & ~special[:, None] & (query != key)  # [T T]
    behind = torch.nn.functional.pad(same & (key < query), (1, -1))  # moved on by one key
    return {
        "previous": key == query - 1,
        "next": key == query + 1,
        "self": key == query,
        "first": (key == 0) & (query > 0),
        "separator": (special & (places > 0)).expand(len(ids), -1),
        "duplicate": same,
        "induction": behind & (key != query),
    }


def cross_targets(queries: int, keys: int) -> dict[str, Tensor]:
    """The keys of each type in cross-attention: bool [T S].

    diagonal: at most one place away from where the query stands, when both texts are drawn equally long.
    anti-diagonal: the same, with one text turned round.
    """
    if queries < 2:
        return {}
    scaled = torch.arange(queries)[:, None] * (keys - 1) / (queries - 1)  # [T 1]
    places = torch.arange(keys)[None]  # [1 S]
    return {"diagonal": (places - scaled).abs() <= 1, "anti-diagonal": (keys - 1 - places - scaled).abs() <= 1}
