"""LoRA as peft keeps it: transformers' names, and one adapter where the file has one matrix for several of ours.

A family's plan says which names of the file are which of ours; no table of names stands here.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.checkpoint.adapter_config import LoRAConfig, lora_config_fields, read_lora_config
from minitransformer.checkpoint.plan import Entry, Plan, fit_plan, make_plan_to_save, own_tensors
from minitransformer.checkpoint.save import written_tensors
from minitransformer.errors import ConfigError, MismatchError
from minitransformer.families import Alias, Family
from minitransformer.model import Transformer
from minitransformer.model.adapters import beside, lora_layers, names_beside
from minitransformer.modules.adapters import LoRALinear, divisor
from minitransformer.storage.files import listed

ROOT = "base_model.model."  # what peft writes before each name
LORA = re.compile(r"(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class FileLoRA:
    """One LoRA as it stands in the file."""

    a: Tensor  # [r in]
    b: Tensor  # [out r]
    alpha: float


def lora_files(model: Transformer, family: Family, base: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The fields of adapter_config.json and the tensors of adapter_model.safetensors, for peft."""
    plan, layers = make_plan_to_save(family, model), dict(lora_layers(model))
    rank_stabilised = all(layer.rank_stabilised for layer in layers.values())
    whole = set(names_beside(model)) - beside(model).keys()
    ours = written_tensors(model)
    tensors = {ROOT + _spelled(family, entry): entry.write(ours) for entry in plan.entries if entry.ours[0] in whole}
    found: dict[str, FileLoRA] = {}
    transposed = False
    for entry in plan.entries:
        parts = [layers.get(name.removesuffix(".weight")) for name in entry.ours]
        if any(parts) and entry.ours[0] not in whole:
            found[family.module_of(entry.file)] = join(entry, parts, rank_stabilised)
            transposed = transposed or entry.transpose
    for module, lora in found.items():
        tensors |= {f"{ROOT}{module}.lora_A.weight": lora.a, f"{ROOT}{module}.lora_B.weight": lora.b}
    rank = Counter(len(lora.a) for lora in found.values()).most_common(1)[0][0]
    alpha = Counter(lora.alpha for lora in found.values()).most_common(1)[0][0]
    config = LoRAConfig(
        rank=rank,
        alpha=alpha,
        dropout=max(layer.dropout for layer in layers.values()),
        rank_stabilised=rank_stabilised,
        targets=tuple(found),
        saved=tuple(
            dict.fromkeys(_whole_module(entry, plan, whole) for entry in plan.entries if entry.ours[0] in whole)
        ),
        ranks={module: len(lora.a) for module, lora in found.items() if len(lora.a) != rank},
        alphas={module: lora.alpha for module, lora in found.items() if lora.alpha != alpha},
    )
    return lora_config_fields(config, base=base, task=model.config.task, fan_in_fan_out=transposed), tensors


def join(entry: Entry, parts: list[LoRALinear | None], rank_stabilised: bool) -> FileLoRA:
    """The LoRAs of the parts of a matrix as one of the whole matrix: exactly the same change, of a higher rank.

        [B_q  0 ]   [A_q]
        [ 0   0 ] · [A_v]    for LoRAs of queries and values beside a matrix of queries, keys and values.
        [ 0  B_v]

    Parts that have the same A, as those that `split` gives, need no higher rank.
    """
    present = [part for part in parts if part is not None]
    first, out = present[0], present[0].out_features
    b_of = {id(part): part.lora_b.detach() * (part.scale / first.scale) for part in present}
    if len(present) == len(parts) and all(torch.equal(part.lora_a, first.lora_a) for part in present):
        a, b = first.lora_a.detach(), torch.cat([b_of[id(part)] for part in present])
    else:
        a = torch.cat([part.lora_a.detach() for part in present])
        b = a.new_zeros(out * len(parts), len(a))
        column = 0
        for i, part in enumerate(parts):
            if part is not None:
                b[i * out : (i + 1) * out, column : column + part.rank] = b_of[id(part)]
                column += part.rank
    alpha = first.alpha * divisor(len(a), rank_stabilised) / divisor(first.rank, first.rank_stabilised)
    return FileLoRA(a, b, alpha)


def split(lora: FileLoRA, parts: int, rank_stabilised: bool) -> list[FileLoRA | None]:
    """The LoRA of a matrix as those of its parts: the inverse of `join`. None: nothing changes this part."""
    if parts == 1 or not lora.b.any():
        return [FileLoRA(lora.a, b, lora.alpha) for b in lora.b.chunk(parts)]
    found: list[FileLoRA | None] = []
    for b in lora.b.chunk(parts):
        used = (b != 0).any(0)  # [r]: the columns of other parts are zeros
        rank = int(used.sum())
        alpha = lora.alpha * divisor(rank, rank_stabilised) / divisor(len(lora.a), rank_stabilised)
        found.append(FileLoRA(lora.a[used], b[:, used], alpha) if rank else None)
    return found


def load_lora(
    model: Transformer, family: Family, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> list[str]:
    """Put what a folder of peft's holds into the model. Returns our names of the weights it gave as a whole.

    Everything is checked before anything is changed.
    """
    config = read_lora_config(raw)
    pairs, others = _sorted(tensors, where)
    today = {name: _todays(family, model, f"{name}.weight") for name in pairs}
    files = {_todays(family, model, name): x for name, x in others.items()}
    if not pairs or len({*today.values(), *files}) < len(tensors) - len(pairs):
        raise MismatchError(f"{where}: expected some LoRAs, and one of each; got {listed(tensors)}")
    _, plan = fit_plan(family, model, [*today.values(), *files])
    unexpected = [name for name in today.values() if name not in plan.files]
    unexpected += [name for name in files if name not in plan.files.keys() | plan.ties.keys() | plan.copies.keys()]
    if unexpected:
        raise MismatchError(
            f"{where}: {listed(unexpected)}: no such tensor in this model ({family.model_type}, {model.config.task}); "
            f"load its base with the head that the adapter was trained with"
        )
    _check_complete(config, family, plan, set(today.values()), set(files), where)
    found: dict[str, FileLoRA] = {}
    for module, file in today.items():
        entry = plan.files[file]
        lora = _checked(model, entry, module, pairs[module], config, where)
        for name, part in zip(entry.ours, split(lora, len(entry.ours), config.rank_stabilised), strict=True):
            if part is not None:
                found[name.removesuffix(".weight")] = part
    whole = _whole_tensors(model, plan, files, where)
    _apply(model, found, whole, config)
    return list(whole)


def _sorted(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """The LoRAs, A and B by their module's name, and the other tensors by theirs."""
    halves: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for name, x in tensors.items():
        short = name.removeprefix(ROOT)
        if short == name:
            raise MismatchError(f"{where}: {listed([name])}: expected names that begin with {ROOT}")
        if match := LORA.fullmatch(short):
            halves.setdefault(match[1], {})[match[2]] = x
        else:
            others[short] = x
    lonely = [module for module, half in halves.items() if len(half) != 2]
    if lonely:
        raise MismatchError(f"{where}: {listed(lonely)}: lora_A or lora_B is missing")
    return {module: (half["A"], half["B"]) for module, half in halves.items()}, others


def _checked(
    model: Transformer, entry: Entry, module: str, pair: tuple[Tensor, Tensor], config: LoRAConfig, where: str
) -> FileLoRA:
    """A LoRA that fits the matrix it stands beside; or an error."""
    if not isinstance(model.get_submodule(entry.ours[0].rpartition(".")[0]), nn.Linear):
        raise ConfigError(f"{where}: {module}: a LoRA beside a table of tokens is not supported; merge it with peft")
    out, width = entry.shape[::-1] if entry.transpose else entry.shape
    a, b = pair
    rank = config.rank_of(module)
    if (tuple(a.shape), tuple(b.shape)) != ((rank, width), (out, rank)):
        raise MismatchError(
            f"{where}: {module}: lora_A is {list(a.shape)} and lora_B {list(b.shape)}, expected {[rank, width]} and "
            f"{[out, rank]} by adapter_config.json and the base"
        )
    return FileLoRA(a, b, config.alpha_of(module))


def _whole_tensors(model: Transformer, plan: Plan, files: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Ours for each tensor that stands in the file as a whole. A second name must say what the first one says."""
    found: dict[str, Tensor] = {}
    for name, x in files.items():
        if name in plan.files:
            entry = plan.files[name]
            if tuple(x.shape) != entry.shape:
                raise MismatchError(
                    f"{where}: {name}: {list(x.shape)} in the file, {list(entry.shape)} in the model; "
                    f"for another number of labels: load(name, labels=...)"
                )
            found.update(entry.read(x))
    own = own_tensors(model)
    for name, x in files.items():
        if name not in plan.files and name in plan.ties:
            ours = plan.ties[name]
            if not torch.equal(found.get(ours, own[ours]).to(x), x):
                raise MismatchError(
                    f"{where}: {name} was trained apart from {ours}, which it is tied to; give the head a matrix of "
                    f"its own: load(name, config={{'tie_word_embeddings': False}})"
                )
    return found


def _check_complete(
    config: LoRAConfig, family: Family, plan: Plan, adapted: Collection[str], whole: Collection[str], where: str
) -> None:
    """Raise a MismatchError for a module that adapter_config.json speaks of and the file does not have."""
    missing = []
    for file in plan.files:
        module, spelled = file.rpartition(".")[0], family.module_of(file)
        saved = any(f".{name}." in f".{path}." for name in config.saved for path in (module, spelled))
        if saved and file not in whole:
            missing.append(file)
        targeted = any(f".{path}".endswith(f".{name}") for name in config.targets or () for path in (module, spelled))
        if targeted and not saved and file.endswith(".weight") and file not in adapted and file not in whole:
            missing.append(f"{module}.lora_A.weight")
    if missing:
        raise MismatchError(f"{where}: missing {listed(missing)}, which adapter_config.json speaks of")


def _apply(model: Transformer, found: Mapping[str, FileLoRA], whole: Mapping[str, Tensor], config: LoRAConfig) -> None:
    own = own_tensors(model)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # no first values are wanted: none are drawn
        for name, x in whole.items():
            own[name].copy_(x)
        for name, lora in found.items():
            linear = model.get_submodule(name)
            layer = LoRALinear(
                linear,  # type: ignore[arg-type]
                rank=len(lora.a),
                alpha=lora.alpha,
                dropout=config.dropout,
                rank_stabilised=config.rank_stabilised,
            )
            layer.lora_a.copy_(lora.a)
            layer.lora_b.copy_(lora.b)
            model.set_submodule(name, layer)


def _todays(family: Family, model: Transformer, name: str) -> str:
    """A name as a file of today spells it: peft's are those of modules in memory, perhaps of an older transformers."""
    for rule in family.rules(model.config):
        if isinstance(rule, Alias):
            name = re.sub(rule.pattern, rule.replacement, name)
    return name


def _spelled(family: Family, entry: Entry) -> str:
    """A tensor's name in transformers' module."""
    return f"{family.module_of(entry.file)}.{entry.file.rpartition('.')[2]}"


def _whole_module(entry: Entry, plan: Plan, whole: Collection[str]) -> str:
    """The largest module around this tensor of which everything is in `whole`."""
    parts = entry.file.split(".")[:-1]
    for count in range(1, len(parts) + 1):
        path = ".".join(parts[:count])
        if all(other.ours[0] in whole for other in plan.entries if other.file.startswith(f"{path}.")):
            return path
    raise ConfigError(f"{entry.file}: trained in part only")  # never: a part of a module is a tensor
