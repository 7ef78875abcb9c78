"""What a file and a plan disagree about, all of it in one message, found in the headers before any number is read."""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minitransformer.checkpoint.plan import Entry, Plan, Shape, matching_names
from minitransformer.config import PatchEmbeddingConfig, TransformerConfig
from minitransformer.errors import MismatchError
from minitransformer.families import FAMILIES, Family
from minitransformer.families.fields import COMPOSED
from minitransformer.ops import BOOKS

SHOWN = 10
LEAST = 6  # a layer has at least so many tensors: the matrices of attention and of feed-forward
LAYER = re.compile(r"(?:^|\.)[a-z_]+\.(\d+)\.")  # the first number in a name, such as that of layers.3.
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
    lines = [*_missing(differences.missing, context.plan.ties), *_unexpected(differences.unexpected)]
    meanings = _meanings(context.raw, context.config)
    lines += [_misshapen(entry, shape, meanings) for entry, shape in differences.misshapen[:SHOWN]]
    if len(differences.misshapen) > SHOWN:
        lines.append(f"and {len(differences.misshapen) - SHOWN} more of another shape")
    lines += _layers(context.plan, context.shapes)
    if differences.missing or differences.unexpected:
        lines += _better_family(context)
    lines += _advice(differences)
    what = f"{context.family.model_type}, {context.config.task}"
    message = f"{context.where}: the tensors do not fit the config ({what})\n  " + "\n  ".join(lines)
    if strict or differences.missing or differences.misshapen:
        raise MismatchError(message)
    warnings.warn(message, stacklevel=2)


def check_layers(where: str, config: TransformerConfig, tensors: int) -> None:
    """Raise a MismatchError for more layers than the file has tensors for, before much time goes into building them."""
    layers = max(stack.layers for stack in (config.encoder, config.decoder) if stack is not None)
    if layers > 1 and layers * LEAST > tensors:
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


def check_sinusoids(name: str, x: Tensor, formula: str, config: TransformerConfig) -> None:
    """Raise a MismatchError if a table in the file is not the one that the book's formula computes."""
    embed = config.embed
    shape = (getattr(embed, "max_positions", None), embed.d_model)
    if tuple(x.shape) != shape:
        raise MismatchError(f"shape of {name}: {list(x.shape)} in the file, {list(shape)} by the config")
    expected = getattr(BOOKS["by_hand"], formula)(torch.arange(len(x)), x.shape[-1])
    largest = float((x - expected).abs().max())
    if not largest < max(1e-4, torch.finfo(x.dtype).eps):
        raise MismatchError(
            f"{name}: up to {largest:.1g} away from sinusoids; learned positions are not supported here"
        )


def _missing(entries: tuple[Entry, ...], ties: Mapping[str, str]) -> list[str]:
    return _listed("missing", [f"{entry.file} (here {', '.join(entry.ours)}){_or(entry, ties)}" for entry in entries])


def _or(entry: Entry, ties: Mapping[str, str]) -> str:
    """The other names that the file might have had for the same tensor."""
    return "".join(f" or {name}" for name, ours in ties.items() if ours in entry.ours)


def _unexpected(names: tuple[str, ...]) -> list[str]:
    return _listed("unexpected", list(names))


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{what} {len(names)}: {'; '.join(names[:SHOWN])}{more}"]


def _misshapen(entry: Entry, found: Shape, meanings: Mapping[int, str]) -> str:
    """One line: the name, both shapes, and the config's fields that say what was expected."""
    told = ", ".join(f"{size} is {meanings[size]}" for size in dict.fromkeys(entry.shape) if size in meanings)
    told = f" ({told})" if told else ""
    return f"shape of {entry.file}: {list(found)} in the file, {list(entry.shape)} by the config{told}"


def _meanings(raw: Mapping[str, Any], config: TransformerConfig) -> dict[int, str]:
    """What sizes mean: the fields of config.json that hold them, and those that they are made of."""
    labels = raw.get("id2label")
    fields = {**raw, "num_labels": len(labels)} if isinstance(labels, Mapping) else raw
    found: dict[int, list[str]] = {}
    for field, value in fields.items():
        for size in value if isinstance(value, list) else [value]:  # a list: height and width
            if type(size) is int:
                found.setdefault(size, []).append(field)
    for part, size in _composed(config):
        parts = [field for field in COMPOSED[part] if isinstance(raw.get(field), int | list)]
        if not set(parts) <= set(found.get(size, ())):
            found.setdefault(size, []).append(f"made of {' and '.join(parts)}")
    return {size: " or ".join(dict.fromkeys(names)) for size, names in found.items()}


def _composed(config: TransformerConfig) -> list[tuple[str, int]]:
    """The sizes that no field of config.json may hold: of all heads together, and of the tables of positions."""
    stacks = [stack for stack in (config.encoder, config.decoder) if stack is not None]
    sizes = [("heads", stack.heads * stack.d_head) for stack in stacks if stack.head_width is not None]
    sizes += [("kv_heads", stack.kv_heads * stack.d_head) for stack in stacks if stack.kv_heads is not None]
    if isinstance(config.embed, PatchEmbeddingConfig):
        return [*sizes, ("patches", config.embed.length)]
    return sizes if config.embed.max_positions is None else [*sizes, ("positions", config.embed.max_positions)]


def _layers(plan: Plan, shapes: Mapping[str, Shape]) -> list[str]:
    """How many layers the plan and the file have in each stack, where they differ."""
    in_plan, in_file = _count_layers(plan.files), _count_layers(shapes)
    return [
        f"the config says {count} {f'{stack} ' if len(in_plan) > 1 else ''}layers, the file has {in_file[stack]}"
        for stack, count in in_plan.items()
        if in_file.get(stack, count) != count
    ]


def _count_layers(names: Iterable[str]) -> dict[str, int]:
    """How many layers the names speak of: of the encoder, of the decoder, or ("") of a stack that is not called so."""
    numbers: dict[str, set[str]] = {}
    for name in names:
        if found := LAYER.search(name):
            before = name[: found.start()].split(".")
            stack = next((stack for stack in ("encoder", "decoder") if stack in before), "")
            numbers.setdefault(stack, set()).add(found[1])
    return {stack: len(found) for stack, found in numbers.items()}


def _better_family(context: Context) -> list[str]:
    """Which families' names the file has, if not this one's."""
    counts = {name: len(matching_names(other, context.config, context.shapes)) for name, other in FAMILIES.items()}
    most = max(counts.values())
    if counts[context.family.model_type] == most:
        return []
    best = " or ".join(name for name, count in counts.items() if count == most)
    return [f"the names in the file look like {best}: {most} of {len(context.shapes)} match"]


def _advice(differences: Differences) -> list[str]:
    """What to try, by what is wrong."""
    ours = [entry.ours[0] for entry in (*differences.missing, *(entry for entry, _ in differences.misshapen))]
    if any("head.lm.weight" in entry.ours for entry in differences.missing):
        return ["for a head that is the token table: load(name, config={'tie_word_embeddings': True})"]
    if ours and all(name.startswith(("head.", "pooler.")) for name in ours):
        return ["for a head with new random weights, all of it: load(name, head=..., new_head=True)"]
    if ours or not differences.unexpected:
        return ["is config.json the one that belongs to this file?"]
    return ["to load without them: load(name, strict=False)"]
