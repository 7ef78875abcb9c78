"""What a file and a plan disagree about, all of it in one message, found in the headers before any number is read."""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitransformer.checkpoint.plan import Entry, Plan, Shape, matching_names
from minitransformer.config import TransformerConfig
from minitransformer.errors import MismatchError
from minitransformer.families import FAMILIES, Family

SHOWN = 10
FLOATING = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Differences:
    """What does not fit."""

    missing: tuple[Entry, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[tuple[Entry, Shape], ...]  # the plan's line, and the file's shape

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)


def compare(plan: Plan, sources: Mapping[str, str], shapes: Mapping[str, Shape], fresh: Iterable[str]) -> Differences:
    """Hold the plan against a file.

    `sources`: the plan's name -> the file's name that gives it; `shapes`: those of the file, by name; `fresh`: names
    of ours that are not to be read.
    """
    wanted = [entry for entry in plan.entries if entry.ours[0] not in set(fresh)]
    known = plan.files.keys() | plan.ties.keys()
    return Differences(
        missing=tuple(entry for entry in wanted if entry.file not in sources),
        unexpected=tuple(name for name in shapes if name not in known and plan.why_ignored(name) is None),
        misshapen=tuple(
            (entry, shapes[sources[entry.file]])
            for entry in wanted
            if entry.file in sources and shapes[sources[entry.file]] != entry.shape
        ),
    )


@dataclass(frozen=True)
class Context:
    """What a message about differences needs to know."""

    where: str
    family: Family
    raw: Mapping[str, Any]
    plan: Plan
    shapes: Mapping[str, Shape]
    config: TransformerConfig


def refuse(differences: Differences, context: Context, *, strict: bool) -> None:
    """Raise a MismatchError that lists all differences. Unless `strict`, unexpected tensors are only warned of."""
    if not differences:
        return
    lines = [*_missing(differences.missing), *_unexpected(differences.unexpected)]
    lines += [_misshapen(entry, shape, context.raw) for entry, shape in differences.misshapen[:SHOWN]]
    if len(differences.misshapen) > SHOWN:
        lines.append(f"and {len(differences.misshapen) - SHOWN} more of another shape")
    lines += _layers(context.plan, context.shapes)
    if len(differences.missing) * 2 > len(context.plan.entries):
        lines += _better_family(context)
    lines += _advice(differences, context.plan)
    what = f"{context.family.model_type}, {context.config.task}"
    message = f"{context.where}: the tensors do not fit the config ({what})\n  " + "\n  ".join(lines)
    if strict or differences.missing or differences.misshapen:
        raise MismatchError(message)
    warnings.warn(message, stacklevel=2)


def check_layers(where: str, config: TransformerConfig, tensors: int) -> None:
    """Raise a MismatchError for more layers than the file has tensors, before much time goes into building them."""
    layers = max(stack.layers for stack in (config.encoder, config.decoder) if stack is not None)
    if layers > tensors:
        raise MismatchError(
            f"{where}: the config says {layers} layers, the file has {tensors} tensors in all; "
            f"is config.json the one that belongs to this file?"
        )


def check_floating(name: str, dtype: str) -> None:
    """Raise a MismatchError for a weight of whole numbers: quantised, or no weight at all."""
    if dtype not in FLOATING:
        raise MismatchError(
            f"{name}: {dtype} in the file, expected one of {', '.join(FLOATING)}; quantised weights are not supported"
        )


def check_finite(name: str, x: Tensor) -> None:
    """Raise a MismatchError if `x` has a NaN or an infinity."""
    if not x.is_floating_point() or bool(torch.isfinite(x.sum())):
        return
    bad = int((~torch.isfinite(x)).sum())  # the sum of large numbers may overflow where none of them is infinite
    if bad:
        raise MismatchError(
            f"{name}: {bad} of {x.numel()} numbers are NaN or infinite; the file is damaged or its training "
            f"diverged; to load it all the same: load(name, check_finite=False)"
        )


def _missing(entries: tuple[Entry, ...]) -> list[str]:
    return _listed("missing", [f"{entry.file} (here {', '.join(entry.ours)})" for entry in entries])


def _unexpected(names: tuple[str, ...]) -> list[str]:
    return _listed("unexpected", list(names))


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{what} {len(names)}: {'; '.join(names[:SHOWN])}{more}"]


def _misshapen(entry: Entry, found: Shape, raw: Mapping[str, Any]) -> str:
    """One line: the name, both shapes, and the config's fields that say what was expected."""
    labels = raw.get("id2label")
    sizes = {**raw, "num_labels": len(labels)} if isinstance(labels, Mapping) else raw
    fields = {
        size: [field for field, value in sizes.items() if value == size and type(value) is int] for size in entry.shape
    }
    meaning = ", ".join(f"{size} is {' or '.join(names)}" for size, names in fields.items() if names)
    told = f" ({meaning})" if meaning else ""
    return f"shape of {entry.file}: {list(found)} in the file, {list(entry.shape)} by the config{told}"


def _layers(plan: Plan, shapes: Mapping[str, Shape]) -> list[str]:
    """How many layers the plan and the file have, where they differ."""
    in_plan, in_file = _count_layers(plan.files), _count_layers(shapes)
    if in_plan == in_file or not in_file:
        return []
    return [f"the config says {in_plan} layers, the file has {in_file}"]


def _count_layers(names: Iterable[str]) -> int:
    return len({number for name in names for number in re.findall(r"\.?\b(?:layer|layers|h|block)\.(\d+)\.", name)})


def _better_family(context: Context) -> list[str]:
    """Which family's names the file has, where most of this family's are missing."""
    counts = {
        name: len(matching_names(other.rules(context.config), context.shapes)) for name, other in FAMILIES.items()
    }
    best = max(counts, key=lambda name: counts[name])
    if best == context.family.model_type or not counts[best]:
        return []
    return [f"the names in the file look like {best}: {counts[best]} of {len(context.shapes)} match"]


def _advice(differences: Differences, plan: Plan) -> list[str]:
    """What to try, by what is wrong."""
    ours = [entry.ours[0] for entry in (*differences.missing, *(entry for entry, _ in differences.misshapen))]
    if any("head.lm.weight" in entry.ours for entry in differences.missing):
        return ["for a head that is the token table: load(name, config={'tie_word_embeddings': True})"]
    in_head = [entry for entry in plan.entries if entry.ours[0].startswith("head.")]
    some_missing = 0 < sum(entry in differences.missing for entry in in_head) < len(in_head)
    if ours and all(name.startswith(("head.", "pooler.")) for name in ours) and not some_missing:
        return ["for a head with new random weights: load(name, head=..., new_head=True)"]
    if ours or not differences.unexpected:
        return ["is config.json the one that belongs to this file?"]
    return ["to load without them: load(name, strict=False)"]
