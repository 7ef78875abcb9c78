"""A family's rules, made finite: for one model, which tensor of the file is which of ours, and of what shape.

The plan is a table. Loading and saving look things up in it; what is missing, unexpected or wrongly shaped is found by
comparing it with a file's header, before a single number is read.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from minitransformer.errors import MiniTransformerError
from minitransformer.families import Copy, Family, Ignore, Map, Rule, Split, Tie
from minitransformer.model import Transformer

Shape = tuple[int, ...]

PLACEHOLDERS = {"i": r"\d+", "wb": "weight|bias", "stack": "encoder|decoder"}


@dataclass(frozen=True)
class Entry:
    """One line of the plan: a tensor of the file, and the one of ours that it is, or the several that it holds."""

    file: str
    ours: tuple[str, ...]
    transpose: bool
    shape: Shape  # in the file

    def read(self, x: Tensor) -> dict[str, Tensor]:
        """The file's tensor as ours. Views: nothing is copied."""
        x = x.T if self.transpose and x.ndim == 2 else x
        return dict(zip(self.ours, x.chunk(len(self.ours)), strict=True))

    def write(self, ours: Mapping[str, Tensor]) -> Tensor:
        """Ours as the file's tensor: the exact inverse of `read`."""
        parts = [ours[name] for name in self.ours]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)
        return x.T if self.transpose and x.ndim == 2 else x


@dataclass(frozen=True)
class Plan:
    """What a file of this family holds for this model."""

    entries: tuple[Entry, ...]
    ties: Mapping[str, str]  # second name in the file -> ours
    copies: Mapping[str, tuple[str, str]]  # unused name in the file -> (ours, why)
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
        return next((rule.why for rule in self.ignored if re.search(rule.pattern, name)), None)


def make_plan(family: Family, model: Transformer, *, prefix: str) -> Plan:
    """The plan for `model` (perhaps on the meta device) and a file that writes `prefix` before all but the head."""
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
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
            rule.file: rule.ours
            for rule in rules
            if isinstance(rule, Tie) and rule.file not in planned and model.config.lm
        },
        copies={rule.file: (rule.ours, rule.why) for rule in rules if isinstance(rule, Copy) and rule.ours in shapes},
        ignored=tuple(rule for rule in rules if isinstance(rule, Ignore)),
    )


def fit_plan(family: Family, model: Transformer, names: Iterable[str]) -> tuple[str, Plan]:
    """The prefix that a file uses, by what its names say (the family's, or none), and the plan with it."""
    names = set(names)
    plans = {prefix: make_plan(family, model, prefix=prefix) for prefix in (family.prefix, "")}
    return max(plans.items(), key=lambda item: len(names & item[1].files.keys()))


def matching_names(rules: Iterable[Rule], names: Iterable[str]) -> set[str]:
    """Which of a file's names these rules speak of, with whatever is written before them."""
    patterns = [re.compile(r"(\w+\.)?" + _pattern(rule.file)) for rule in rules if isinstance(rule, Map | Split)]
    return {name for name in names if any(pattern.fullmatch(name) for pattern in patterns)}


def _entry(rule: Map | Split, groups: Mapping[str, str], shapes: Mapping[str, Shape], prefix: str) -> Entry:
    templates = (rule.ours,) if isinstance(rule, Map) else rule.ours
    ours = tuple(template.format(**groups) for template in templates)
    of_head = ours[0].startswith("head.")
    first = shapes[ours[0]]
    shape = (first[0] * len(ours), *first[1:])
    return Entry(
        file=("" if of_head else prefix) + rule.file.format(**groups),
        ours=ours,
        transpose=rule.transpose,
        shape=shape[::-1] if rule.transpose else shape,
    )


def _matches(template: str, names: Iterable[str]) -> list[dict[str, str]]:
    """What the placeholders of `template` stand for in each of `names` that fits it."""
    pattern = re.compile(_pattern(template))
    found = (pattern.fullmatch(name) for name in names)
    return [match.groupdict() for match in found if match]


def _pattern(template: str) -> str:
    pattern = re.escape(template)
    for placeholder, what in PLACEHOLDERS.items():
        pattern = pattern.replace(rf"\{{{placeholder}\}}", f"(?P<{placeholder}>{what})")
    return pattern
