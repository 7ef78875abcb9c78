"""From a folder to a Transformer: compare the plan with the file's header, then put each tensor in its place.

The model is built on the meta device, so nothing is drawn at random and then overwritten, and the file is mapped into
memory, so no second copy of it is made.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from minitransformer.checkpoint.checks import Context, check_floating, check_layers, check_sinusoids, compare, refuse
from minitransformer.checkpoint.checks import check_finite as check_numbers
from minitransformer.checkpoint.plan import Plan, fit_plan
from minitransformer.checkpoint.report import Report
from minitransformer.config import DoubleHeadsConfig, LanguageModelConfig, PretrainingConfig, TransformerConfig
from minitransformer.errors import CorruptFileError, MismatchError
from minitransformer.families import Alias, Family
from minitransformer.model import Transformer, build
from minitransformer.model.initialise import initialise
from minitransformer.storage import Weights, open_checkpoint

ZEROS = "not in the file, which means zeros"
SCAN_LIMIT = 1 << 30  # bytes of weights up to which NaN and infinity are looked for unasked


@dataclass(frozen=True)
class _Fit:
    """A model without numbers, the plan for it, and where in the file each line of the plan is."""

    model: Transformer
    plan: Plan
    prefix: str
    sources: Mapping[str, str]  # the plan's name -> the file's name, in today's spelling
    fresh: Mapping[str, str]  # names of ours that get new values -> why


def load_checkpoint(
    folder: Path,
    family: Family,
    raw: Mapping[str, Any],
    head: str,
    *,
    may_be_new: bool = False,
    new_head: bool = False,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    strict: bool = True,
    check_finite: bool | None = None,
    allow_pickle: bool = False,
) -> tuple[Transformer, Report]:
    """The model that `raw` (a config.json) and the weights in `folder` describe, with the given head.

    `may_be_new`: a head that the file does not have gets new values; otherwise that is an error. `new_head`: it gets
    new values in any case. `dtype`: what the weights become, or "auto" for what they are. `strict=False`: unexpected
    tensors are a warning. `check_finite`: look for NaN and infinity, by default in files of up to 1 GiB.
    """
    config = family.translate(raw, head)
    with open_checkpoint(folder, allow_pickle=allow_pickle) as weights:
        names = _todays_names(family, config, weights)
        notes = []
        check_layers(str(folder), config, len(names))

        def fit(config: TransformerConfig) -> _Fit:
            fitted = _fit(family, config, names, may_be_new=may_be_new, new_head=new_head)
            shapes = {name: weights.infos[old].shape for name, old in names.items()}
            differences = compare(fitted.plan, fitted.sources, shapes, fitted.fresh)
            refuse(differences, Context(str(folder), family, raw, fitted.plan, shapes, config), strict=strict)
            for name in fitted.sources.values():
                check_floating(name, weights.infos[names[name]].dtype)
            return fitted

        if head == "base" and config.pooler and not any("pooler" in name for name in names):
            config = replace(config, pooler=False)
            notes.append("the file has no pooler, so the model has none")
        fitted = fit(config)
        if untied := _untied(fitted, names, weights):
            config = _untie(config)
            if untied in _fit(family, config, names, may_be_new=may_be_new, new_head=new_head).plan.ties:
                raise MismatchError(
                    f"{untied}: differs from the tensor that it should be a copy of; which one is right?"
                )
            fitted = fit(config)
            notes.append(f"{untied} differs from what its name ties it to, so the head has a matrix of its own")
        for name in fitted.plan.sinusoids.keys() & names.keys():
            check_floating(name, weights.infos[names[name]].dtype)
            check_sinusoids(name, weights.read(names[name]), fitted.plan.sinusoids[name].formula, config)
        scan = check_finite if check_finite is not None else _bytes(weights) <= SCAN_LIMIT
        _fill(fitted, names, weights, dtype=dtype, scan=scan)
    report = _report(str(folder), family, fitted, names, weights, tuple(notes))
    return fitted.model.eval(), report


def _todays_names(family: Family, config: TransformerConfig, weights: Weights) -> dict[str, str]:
    """Each name of the file in today's spelling -> as the file spells it."""
    aliases = [rule for rule in family.rules(config) if isinstance(rule, Alias)]
    names: dict[str, str] = {}
    for old in weights.infos:
        new = old
        for alias in aliases:
            new = re.sub(alias.pattern, alias.replacement, new)
        if new in names:
            raise CorruptFileError(f"{old} and {names[new]}: two names in the file for one tensor; which one is right?")
        names[new] = old
    return names


def _fit(
    family: Family, config: TransformerConfig, names: Mapping[str, str], *, may_be_new: bool, new_head: bool
) -> _Fit:
    model = build(config, device="meta")
    prefix, plan = fit_plan(family, model, names)
    repeats = {**plan.ties, **{name: ours for name, (ours, _) in plan.copies.items()}}
    second = {plan.source[ours].file: name for name, ours in repeats.items() if name in names and ours in plan.source}
    sources = {file: file if file in names else second[file] for file in plan.files if file in names or file in second}
    fresh: dict[str, str] = {}
    for part in ("head.", "pooler."):
        entries = [entry for entry in plan.entries if entry.ours[0].startswith(part)]
        absent = not any(entry.file in sources for entry in entries)
        if (may_be_new and absent) or (new_head and part == "head."):
            why = "not in the file" if absent else "a new head was asked for"
            fresh.update({name: why for entry in entries for name in entry.ours})
    zeros = [entry for entry in plan.entries if entry.zeros and entry.file not in sources]
    fresh.update({name: ZEROS for entry in zeros for name in entry.ours if name not in fresh})
    return _Fit(model, plan, prefix, sources, fresh)


def _untied(fit: _Fit, names: Mapping[str, str], weights: Weights) -> str | None:
    """The first second name in the file whose tensor is not the one it should repeat."""
    for name, ours in fit.plan.ties.items():
        entry = fit.plan.source.get(ours)
        if entry is None or name not in names or entry.file not in names:
            continue
        if not torch.equal(weights.read(names[name]), weights.read(names[entry.file])):
            return name
    return None


def _untie(config: TransformerConfig) -> TransformerConfig:
    match config.head:
        case LanguageModelConfig():
            return replace(config, head=replace(config.head, tied=False))
        case PretrainingConfig() | DoubleHeadsConfig():
            return replace(config, head=replace(config.head, lm=replace(config.head.lm, tied=False)))
    return config


def _fill(
    fit: _Fit, names: Mapping[str, str], weights: Weights, *, dtype: torch.dtype | Literal["auto"], scan: bool
) -> None:
    """Put the file's numbers, and fresh ones where there are none, into the model."""
    state: dict[str, Tensor] = {}
    for entry in fit.plan.entries:
        if entry.ours[0] in fit.fresh:
            if fit.fresh[entry.ours[0]] == ZEROS:
                state.update(entry.read(torch.zeros(entry.shape, dtype=next(iter(state.values())).dtype)))
            continue
        x = weights.read(names[fit.sources[entry.file]])
        if scan:
            check_numbers(entry.file, x)
        state.update(entry.read(x if dtype == "auto" else x.to(dtype)))
    fit.model.load_state_dict(state, strict=False, assign=True)
    kept = next(iter(state.values())).dtype
    for part in ("head", "pooler"):
        module: nn.Module | None = getattr(fit.model, part)
        if module is not None and any(name.startswith(f"{part}.") for name in fit.fresh if name not in state):
            module.to_empty(device="cpu")
            initialise(module)
            module.to(kept)


def _report(
    source: str, family: Family, fit: _Fit, names: Mapping[str, str], weights: Weights, notes: tuple[str, ...]
) -> Report:
    read = {name for file, name in fit.sources.items() if fit.plan.files[file].ours[0] not in fit.fresh}
    known = fit.plan.files.keys() | fit.plan.ties.keys()
    second = {name: ours for name, ours in fit.plan.ties.items() if name in names and name not in read}
    ties = {name: ours for name, ours in second.items() if ours not in fit.fresh}
    ignored = {
        name: "a new head was asked for" if name in known else fit.plan.why_ignored(name) or "unexpected"
        for name in names
        if name not in read and name not in ties
    }
    return Report(
        source=source,
        family=family.model_type,
        head=fit.model.config.task,
        prefix=fit.prefix,
        file_dtypes=dict(Counter(info.dtype for info in weights.infos.values())),
        used=tuple(sorted(read)),
        ignored=ignored,
        aliased={old: new for new, old in names.items() if new != old},
        tied=ties,
        fresh=fit.fresh,
        notes=notes,
        commit=Path(source).name if Path(source).parent.name == "snapshots" else None,
    )


def _bytes(weights: Weights) -> int:
    return sum(path.stat().st_size for path in {info.file for info in weights.infos.values()})
