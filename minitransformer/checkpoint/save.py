"""From a Transformer to a folder that transformers reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitransformer.checkpoint.plan import make_plan_to_save, own_tensors
from minitransformer.config import QuestionAnsweringConfig
from minitransformer.errors import ConfigError
from minitransformer.families import Family
from minitransformer.families.fields import num_labels
from minitransformer.model import Transformer
from minitransformer.model.adapters import adapted_layers
from minitransformer.modules.adapters import LoRALinear
from minitransformer.ops import BOOKS
from minitransformer.storage import save_tensors
from minitransformer.storage.files import write_json


def save_checkpoint(model: Transformer, family: Family, raw: Mapping[str, Any], folder: Path) -> None:
    """Write model.safetensors and config.json into `folder`, which must exist. The config keeps what it had.

    Of a matrix with LoRA, the sum of both is written; the model itself stays as it is.
    """
    plan = make_plan_to_save(family, model)
    ours = written_tensors(model)
    tensors = {entry.file: entry.write(ours) for entry in plan.entries}
    tensors.update({name: ours[of].clone() for name, (of, _) in plan.copies.items()})
    tensors.update({name: _table(model, rule.formula) for name, rule in plan.sinusoids.items() if rule.written})
    save_tensors(tensors, folder / "model.safetensors")
    write_json(config_fields(model, family, raw), folder / "config.json")


def written_tensors(model: Transformer) -> dict[str, Tensor]:
    """The model's own tensors with each LoRA merged into its weight. A ConfigError for adapters that cannot be."""
    layers = adapted_layers(model)
    fixed = [name for name, layer in layers if not isinstance(layer, LoRALinear)]
    if fixed:
        raise ConfigError(
            f"save: {fixed[0]} and {len(fixed) - 1} more have bottleneck adapters, which no checkpoint of this family "
            f"holds; write them beside their base with save_adapter, or leave them out: remove_adapters(model)"
        )
    merged = {f"{name}.weight": layer.changed_weight() for name, layer in layers if isinstance(layer, LoRALinear)}
    return {name: merged.get(name, x.detach()) for name, x in own_tensors(model).items()}


def _table(model: Transformer, formula: str) -> Tensor:
    """The sinusoids of all positions, in the dtype of the model's weights."""
    embed, like = model.embed.config, next(model.parameters())
    places = torch.arange(getattr(embed, "max_positions", 0))
    return getattr(BOOKS["by_hand"], formula)(places, embed.d_model).to(like.dtype)


def config_fields(model: Transformer, family: Family, raw: Mapping[str, Any]) -> dict[str, Any]:
    """config.json as it was, with what may have changed: the head's class, tying, and the dtype."""
    dtype = str(next(iter(own_tensors(model).values())).dtype).removeprefix("torch.")
    changed: dict[str, Any] = {"architectures": [family.class_of(model.config)], **family.saved(model.config)}
    changed["torch_dtype" if "torch_dtype" in raw else "dtype"] = dtype
    kept = dict(raw)
    if isinstance(model.config.head, QuestionAnsweringConfig) and num_labels(raw) != 2:
        for field in ("id2label", "label2id", "num_labels"):  # transformers gives this head a row for each label
            kept.pop(field, None)
    return {**kept, **changed}
