"""An adapter in a folder of its own, beside a model that stays where it is.

LoRA is written as peft writes it: PeftModel.from_pretrained reads ours, and we read peft's, without peft. Bottleneck
adapters are in a format of our own, which peft does not read. Both are adapter_config.json, adapter_model.safetensors,
which also holds the head, and the config.json of the model with its head and labels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitransformer.checkpoint.adapter_config import CONFIG, TASKS, check_size, read_adapter_json
from minitransformer.checkpoint.checks import check_finite, check_floating
from minitransformer.checkpoint.lora_files import load_lora, lora_files
from minitransformer.checkpoint.plan import own_tensors
from minitransformer.checkpoint.save import config_fields
from minitransformer.errors import ConfigError, MismatchError
from minitransformer.families import Family
from minitransformer.model import Transformer
from minitransformer.model.adapters import (
    adapted_layers,
    add_adapters,
    beside,
    check_plain,
    linears_before_adapters,
    names_beside,
)
from minitransformer.modules.adapters import AdapterLinear, LoRALinear
from minitransformer.storage import open_tensors, save_tensors
from minitransformer.storage.files import listed, quote, write_json
from minitransformer.storage.weights import INDEX, SINGLE

WEIGHTS = "adapter_model.safetensors"
BOTTLENECK = "MINITRANSFORMER_BOTTLENECK"


def save_adapter(
    model: Transformer, family: Family, raw_config: Mapping[str, Any], base_name: str, folder: Path
) -> None:
    """Write the model's adapter and head into `folder`, which must exist. `base_name`: what `load` finds the base by.

    A ConfigError if there is no adapter, or if other weights train, too, which the files would not hold.
    """
    kinds = {type(layer) for _, layer in adapted_layers(model)}
    if len(kinds) != 1:
        got = "LoRA and bottleneck adapters" if kinds else "a model without an adapter"
        raise ConfigError(f"save_adapter: got {got}, expected one kind; save(folder) writes a whole model")
    kept = set(names_beside(model))
    others = [name for name, x in model.named_parameters() if x.requires_grad and name not in kept]
    if others:
        raise ConfigError(
            f"save_adapter: {len(others)} weights of the base train, too ({listed(others[:3])}), and the files do not "
            f"hold them; freeze them before training: choose(model, 'lora') or 'adapter'; or write all: save(folder)"
        )
    if kinds == {LoRALinear}:
        fields, tensors = lora_files(model, family, base_name)
    else:
        fields, tensors = _bottleneck_files(model, base_name)
    save_tensors(tensors, folder / WEIGHTS)
    write_json(config_fields(model, family, raw_config), folder / "config.json")
    write_json(fields, folder / CONFIG)


def load_adapter(model: Transformer, family: Family, folder: Path) -> list[str]:
    """Put the adapter in `folder` into `model`, its base. Returns the names of the weights that it replaced: a head's.

    What the files do not hold is frozen. Nothing is changed if there is an error.
    """
    raw = read_adapter_json(folder)
    check_plain(dict(adapted_layers(model)))
    with open_tensors(folder / WEIGHTS) as weights:
        for name, info in weights.infos.items():
            check_floating(name, info.dtype)
        tensors = {name: weights.read(name) for name in weights.infos}
    for name, x in tensors.items():
        check_finite(name, x)
    if raw["peft_type"] == BOTTLENECK:
        whole = _load_bottleneck(model, raw, tensors, str(folder))
    else:
        whole = load_lora(model, family, raw, tensors, str(folder))
    given = {*whole, *beside(model)}
    for name, x in model.named_parameters():
        x.requires_grad_(name in given)
    return whole


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and not the whole model."""
    return (folder / CONFIG).is_file() and not any((folder / name).exists() for name in (SINGLE, INDEX))


def adapter_base(folder: Path) -> str:
    """The name of the model that the adapter in `folder` belongs to, as the file says it: it may be any text."""
    name = read_adapter_json(folder).get("base_model_name_or_path")
    if not isinstance(name, str) or not name.strip() or len(name) > 1000 or not name.isprintable():
        raise ConfigError(
            f"{folder / CONFIG}: base_model_name_or_path: got {quote(name)}, expected a model's name; write it there"
        )
    return name


def adapter_head(folder: Path, family: Family) -> str | None:
    """The head that the adapter in `folder` was trained with, where peft's task_type says it."""
    task = read_adapter_json(folder).get("task_type")
    heads = [head for head, name in TASKS.items() if name == task and head in family.classes]
    return heads[0] if heads else None


def _bottleneck_files(model: Transformer, base: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    layer = next(layer for _, layer in adapted_layers(model) if isinstance(layer, AdapterLinear))
    fields = {
        "peft_type": BOTTLENECK,
        "base_model_name_or_path": base,
        "size": layer.size,
        "activation": layer.activation,
    }
    return fields, {name: model.get_parameter(name) for name in names_beside(model)}


def _load_bottleneck(
    model: Transformer, raw: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str
) -> list[str]:
    size, activation = check_size("size", raw.get("size")), raw.get("activation")
    if not isinstance(activation, str) or activation not in AdapterLinear.ACTIVATIONS:
        expected = " or ".join(AdapterLinear.ACTIVATIONS)
        raise ConfigError(f"{CONFIG}: activation: got {quote(activation)}, expected {expected}")
    own = own_tensors(model)
    shapes = {name: tuple(own[name].shape) for name in names_beside(model)}
    whole = list(shapes)
    for name, linear in linears_before_adapters(model).items():
        width = linear.out_features
        parts = {"down.weight": (size, width), "down.bias": (size,), "up.weight": (width, size), "up.bias": (width,)}
        shapes |= {f"{name}.adapter_{part}": shape for part, shape in parts.items()}
    found = {name: tuple(x.shape) for name, x in tensors.items()}
    wrong = [name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)]
    if wrong:
        raise MismatchError(
            f"{where}: {listed(sorted(wrong))}: missing, unexpected or of another shape than the model's"
        )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        add_adapters(model, size, activation)
        for name, x in tensors.items():
            model.get_parameter(name).copy_(x)
    return whole
