"""From a Transformer to a folder that transformers reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from minitransformer.checkpoint.plan import make_plan
from minitransformer.config import QuestionAnsweringConfig
from minitransformer.families import Family
from minitransformer.families.fields import num_labels
from minitransformer.model import Transformer
from minitransformer.storage import save_tensors
from minitransformer.storage.files import write_json


def save_checkpoint(model: Transformer, family: Family, raw: Mapping[str, Any], folder: Path) -> None:
    """Write model.safetensors and config.json into `folder`, which must exist. The config keeps what it had."""
    head = model.config.task
    plan = make_plan(family, model, prefix="" if head == "base" else family.prefix)
    ours = {name: x.detach() for name, x in model.state_dict().items()}
    tensors = {entry.file: entry.write(ours) for entry in plan.entries}
    tensors.update({name: ours[of].clone() for name, (of, _) in plan.copies.items()})
    save_tensors(tensors, folder / "model.safetensors")
    write_json(_config(model, family, raw, ours), folder / "config.json")


def _config(model: Transformer, family: Family, raw: Mapping[str, Any], ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """config.json as it was, with what may have changed: the head's class, tying, and the dtype."""
    lm = model.config.lm
    dtype = str(next(iter(ours.values())).dtype).removeprefix("torch.")
    changed: dict[str, Any] = {"architectures": [family.classes[model.config.task]]}
    if lm is not None:
        changed["tie_word_embeddings"] = lm.tied
    changed["torch_dtype" if "torch_dtype" in raw else "dtype"] = dtype
    kept = dict(raw)
    if isinstance(model.config.head, QuestionAnsweringConfig) and num_labels(raw) != 2:
        for field in ("id2label", "label2id", "num_labels"):  # transformers gives this head a row for each label
            kept.pop(field, None)
    return {**kept, **changed}
