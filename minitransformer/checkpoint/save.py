"""From a Transformer to a folder that transformers reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitransformer.checkpoint.plan import make_plan, own_tensors
from minitransformer.config import QuestionAnsweringConfig
from minitransformer.families import Family
from minitransformer.families.fields import num_labels
from minitransformer.model import Transformer
from minitransformer.ops import BOOKS
from minitransformer.storage import save_tensors
from minitransformer.storage.files import write_json


def save_checkpoint(model: Transformer, family: Family, raw: Mapping[str, Any], folder: Path) -> None:
    """Write model.safetensors and config.json into `folder`, which must exist. The config keeps what it had."""
    head = model.config.task
    plan = make_plan(family, model, prefix="" if model.config.head is None else family.prefix_of(head))
    ours = {name: x.detach() for name, x in own_tensors(model).items()}
    tensors = {entry.file: entry.write(ours) for entry in plan.entries}
    tensors.update({name: ours[of].clone() for name, (of, _) in plan.copies.items()})
    tensors.update({name: _table(model, rule.formula) for name, rule in plan.sinusoids.items() if rule.written})
    save_tensors(tensors, folder / "model.safetensors")
    write_json(_config(model, family, raw, ours), folder / "config.json")


def _table(model: Transformer, formula: str) -> Tensor:
    """The sinusoids of all positions, in the dtype of the model's weights."""
    embed, like = model.embed.config, next(model.parameters())
    places = torch.arange(getattr(embed, "max_positions", 0))
    return getattr(BOOKS["by_hand"], formula)(places, embed.d_model).to(like.dtype)


def _config(model: Transformer, family: Family, raw: Mapping[str, Any], ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """config.json as it was, with what may have changed: the head's class, tying, and the dtype."""
    dtype = str(next(iter(ours.values())).dtype).removeprefix("torch.")
    changed: dict[str, Any] = {"architectures": [family.class_of(model.config)], **family.saved(model.config)}
    changed["torch_dtype" if "torch_dtype" in raw else "dtype"] = dtype
    kept = dict(raw)
    if isinstance(model.config.head, QuestionAnsweringConfig) and num_labels(raw) != 2:
        for field in ("id2label", "label2id", "num_labels"):  # transformers gives this head a row for each label
            kept.pop(field, None)
    return {**kept, **changed}
