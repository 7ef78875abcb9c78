"""An adapter put into the weights beside it: a plain checkpoint, which answers as the two did."""

from os import PathLike
from pathlib import Path

import torch

from minitransformer.errors import ConfigError, CorruptFileError, MiniTransformerError
from minitransformer.finetune.ship.trace import HEADS, logits_of, sample
from minitransformer.loading import load
from minitransformer.model.adapters import adapted_layers
from minitransformer.modules.adapters import LoRALinear
from minitransformer.pretrained import Pretrained
from minitransformer.storage import atomic_folder

TOLERANCE = 1e-4  # times the largest logit: by what a sum of two products may differ from one product, in float32


def merge(name: str | PathLike[str], out: str | PathLike[str]) -> float:
    """Write the model `name`, a folder with LoRA (ours or peft's), as a plain checkpoint into the folder `out`.

    W + (alpha/r) B A is computed in float64. Returns the largest difference of the logits before and after; a
    CorruptFileError if it is more than rounding, and then nothing is written.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise MiniTransformerError(f"{target}: it exists and is not empty; give a new folder")
    model = load(name).eval()
    layers = [layer for _, layer in adapted_layers(model.transformer)]
    if not layers:
        raise ConfigError(f"{name}: it has no adapter, so there is nothing to merge; it can be used as it is")
    if not all(isinstance(layer, LoRALinear) for layer in layers):
        raise ConfigError(f"{name}: bottleneck adapters cannot be merged: they are not linear; use it as it is")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(target) as staging:
        model.write(staging)
        return compare(model, load(staging).eval(), target)


def compare(before: Pretrained, after: Pretrained, target: Path) -> float:
    """The largest difference between two models' answers to a random batch with padding; a CorruptFileError for much.

    Both are computed in float32, as they will be used.
    """
    config = before.transformer.config
    if config.task not in HEADS:
        raise ConfigError(f"merge: got the head {config.task}, whose answers are not compared; load and save it")
    batch = sample(config, 3, 16, generator=torch.Generator().manual_seed(0))
    expected, found = logits_of(before.transformer, batch), logits_of(after.transformer, batch)
    largest = 0.0
    for name, wanted in expected.items():
        difference, limit = (found[name] - wanted).abs().max().item(), TOLERANCE * max(1.0, wanted.abs().max().item())
        if not difference <= limit:
            raise CorruptFileError(
                f"{target}: not written: merged, {name} differ by {difference:.2g}, expected at most {limit:.2g}; "
                f"use the adapter beside its base, as it is"
            )
        largest = max(largest, difference)
    return largest
