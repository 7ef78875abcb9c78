"""A family's rules, made finite: for one model, which tensor of the file is which of ours, and of what shape.

The plan is a table. Loading and saving look things up in it; what is missing, unexpected or wrongly shaped is found by
comparing it with a file's header, before a single number is read.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from minitransformer.config import TransformerConfig
from minitransformer.errors import MiniTransformerError
from minitransformer.families import Copy, Family, Ignore, Map, Sinusoids, Split, Tie
from minitransformer.model import Transformer
from minitransformer.model.adapters import beside

Shape = tuple[int, ...]

PLACEHOLDERS = {"i": r"\d+", "wb": "weight|bias", "stack": "encoder|decoder"}


@dataclass(frozen=True)
class Entry:
    """One line of the plan: a tensor of the file, and the one of ours that it is, or the several that it holds."""

    file: str
    ours: tuple[str, ...]
    transpose: bool
    ones: int
    zeros: bool  # a file that lacks it means zeros
    shape: Shape  # in the file

    def read(self, x: Tensor) -> dict[str, Tensor]:
        """The file's tensor as ours. Views: nothing is copied."""
        x = x.reshape(x.shape[self.ones :])
        x = x.T if self.transpose and x.ndim == 2 else x
        return dict(zip(self.ours, x.chunk(len(self.ours)), strict=True))

    def write(self, ours: Mapping[str, Tensor]) -> Tensor:
        """Ours as the file's tensor: the exact inverse of `read`."""
        parts = [ours[name] for name in self.ours]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        x = x.T if self.transpose and x.ndim == 2 else x
        return x.reshape((1,) * self.ones + x.shape)


@dataclass(frozen=True)
class Plan:
    """What a file of this family holds for this model."""

    entries: tuple[Entry, ...]
    ties: Mapping[str, str]  # second name in the file -> ours
    copies: Mapping[str, tuple[str, str]]  # unused name in the file -> (ours, why)
    sinusoids: Mapping[str, Sinusoids]  # name in the file -> the table that is computed here
    ignored: tuple[Ignore, ...]

    @property
    def files(self) -> dict[str, Entry]:
        """The entries by their name in the file."""
        return {entry.file: entry for entry in self.entries}

    @property
    def source(self) -> dict[str, Entry]:
        """The entries by each name of ours."""
        return {name: entry for entry in self.entries for name in entry.ours}

    def why_ignored(self, name: str) -> str | None:
        """Why a name of the file is passed over; None if nothing says so."""
        if name in self.copies:
            return self.copies[name][1]
        if name in self.sinusoids:
            return "sinusoids, which are computed"
        return next((rule.why for rule in self.ignored if re.search(rule.pattern, name)), None)


def make_plan(family: Family, model: Transformer, *, prefix: str) -> Plan:
    """The plan for `model` (perhaps on the meta device) and a file that writes `prefix` before all but the head."""
    shapes = {name: tuple(x.shape) for name, x in own_tensors(model).items()}
    rules = family.rules(model.config)
    entries = [
        _entry(rule, groups, shapes, prefix)
        for rule in rules
        if isinstance(rule, Map | Split)
        for groups in _matches(rule.ours if isinstance(rule, Map) else rule.ours[0], shapes)
    ]
    claimed = [name for entry in entries for name in entry.ours]
    if sorted(claimed) != sorted(shapes):
        wrong = set(shapes) ^ set(claimed) or {name for name in claimed if claimed.count(name) > 1}
        raise MiniTransformerError(f"{family.model_type}: its rules do not name each tensor once: {sorted(wrong)}")
    planned = {entry.file for entry in entries}  # an untied head's own matrix, which would else be a tie
    return Plan(
        entries=tuple(entries),
        ties={
            name: rule.ours
            for rule in rules
            if isinstance(rule, Tie) and (model.config.lm or "{prefix}" in rule.file)
            if (name := rule.file.format(prefix=prefix)) not in planned
        },
        copies={
            rule.file.format(prefix=prefix): (rule.ours, rule.why)
            for rule in rules
            if isinstance(rule, Copy) and rule.ours in shapes
        },
        sinusoids={rule.file.format(prefix=prefix): rule for rule in rules if isinstance(rule, Sinusoids)},
        ignored=tuple(rule for rule in rules if isinstance(rule, Ignore)),
    )


def make_plan_to_save(family: Family, model: Transformer) -> Plan:
    """The plan for `model` and a file such as transformers writes it."""
    return make_plan(family, model, prefix="" if model.config.head is None else family.prefix_of(model.config.task))


def own_tensors(model: Transformer) -> dict[str, Tensor]:
    """Every weight (and fixed bias) of the model by name; one that has two names, such as a shared table, once.

    What adapters have brought is not the model's own.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    adapters = beside(model)
    for name, x in model.state_dict(keep_vars=True).items():
        if id(x) not in seen and name not in adapters:
            seen.add(id(x))
            found[name] = x
    return found


def fit_plan(family: Family, model: Transformer, names: Iterable[str]) -> tuple[str, Plan]:
    """The prefix that a file uses, by what its names say (one of the family's, or none), and the plan with it."""
    names = set(names)
    prefixes = dict.fromkeys((family.prefix_of(model.config.task), family.prefix, *family.prefixes.values(), ""))
    plans = {prefix: make_plan(family, model, prefix=prefix) for prefix in prefixes}
    return max(plans.items(), key=lambda item: len(names & item[1].files.keys()))


def matching_names(family: Family, config: TransformerConfig, names: Iterable[str]) -> set[str]:
    """Which of a file's names this family's rules speak of, with or without what it writes before them."""
    templates = [rule.file for rule in family.rules(config) if isinstance(rule, Map | Split | Sinusoids)]
    patterns = [_pattern(template.removeprefix("{prefix}")) for template in templates]
    prefixes = ("", family.prefix, *family.prefixes.values())

    def spoken_of(name: str) -> bool:
        without = {name.removeprefix(prefix) for prefix in prefixes}
        return any(pattern.fullmatch(short) for short in without for pattern in patterns)

    return {name for name in names if spoken_of(name)}


def _entry(rule: Map | Split, groups: Mapping[str, str], shapes: Mapping[str, Shape], prefix: str) -> Entry:
    templates = (rule.ours,) if isinstance(rule, Map) else rule.ours
    ours = tuple(template.format(**groups) for template in templates)
    of_head = ours[0].startswith("head.")
    first = shapes[ours[0]]
    ones = rule.ones if isinstance(rule, Map) else 0
    shape = (first[0] * len(ours), *first[1:])
    return Entry(
        file=("" if of_head else prefix) + rule.file.format(**groups),
        ours=ours,
        transpose=rule.transpose,
        ones=ones,
        zeros=isinstance(rule, Map) and rule.zeros,
        shape=(1,) * ones + (shape[::-1] if rule.transpose else shape),
    )


def _matches(template: str, names: Iterable[str]) -> list[dict[str, str]]:
    """What the placeholders of `template` stand for in each of `names` that fits it."""
    found = (_pattern(template).fullmatch(name) for name in names)
    return [match.groupdict() for match in found if match]


@cache  # all families' templates together are more than `re` keeps by itself
def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(template)
    for placeholder, what in PLACEHOLDERS.items():
        pattern = pattern.replace(rf"\{{{placeholder}\}}", f"(?P<{placeholder}>{what})")
    return re.compile(pattern)
