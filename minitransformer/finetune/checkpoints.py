"""The checkpoints of a run: what it takes to go on from a step, written so that no moment of a crash can spoil it.

    checkpoints/step-000500/   weights.safetensors    the weights that train
                               optimizer.safetensors  its moments, by the weights' names
                               state.json             the step, the best score so far
                               manifest.json          each file's size and sha256, written last

No state of a random generator is there, nor a place in the data: both follow from the step. A model that is spread over
processes is written by all of them, each its share: weights-00000.safetensors and so on, of which the rows of every
tensor, one after the other, are the whole. So any number of processes can go on from there.
"""

import hashlib
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from minitransformer.errors import CorruptFileError, MiniTransformerError
from minitransformer.finetune.distributed import gathered, of_first, wait, world
from minitransformer.finetune.sharded import is_sharded, own_share, spread_as
from minitransformer.storage import atomic_folder, read_json, save_tensors
from minitransformer.storage.atomic import remove_abandoned
from minitransformer.storage.files import write_json

NAME = re.compile(r"step-(\d{6,})")
WEIGHTS, MOMENTS, STATE, MANIFEST = "weights", "optimizer", "state.json", "manifest.json"
TENSORS = re.compile(rf"({WEIGHTS}|{MOMENTS})(-\d{{5}})?\.safetensors")


@dataclass
class State:
    """Where a run is, besides its weights and the optimizer's moments."""

    step: int = 0  # how many are done
    best: float | None = None  # the best score
    best_step: int | None = None
    since_best: int = 0  # evaluations without a better one
    micro_batch_size: int | None = None  # smaller than the recipe's where memory ran out
    scaler: dict[str, Any] = field(default_factory=dict)  # of float16: by what the loss is multiplied, and since when


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, *, keep: int) -> Path:
    """Write a checkpoint into the folder of checkpoints, and remove the oldest beyond `keep`, but never the best.

    All processes call it, and it returns when the checkpoint is there.
    """
    target, here = folder / f"step-{state.step:06d}", world()
    if here.first:
        folder.mkdir(exist_ok=True)
    if not of_first(target.exists()):
        with atomic_folder(target) if here.first else nullcontext() as made:
            staging = of_first(made)
            written = write_tensors(staging, model, optimizer) if here.first or is_sharded(model) else {}
            files = {name: digest for each in gathered(written) for name, digest in each.items()}
            if here.first:
                write_json(asdict(state), staging / STATE)
                write_json({"step": state.step, "files": files | _digests(staging, STATE)}, staging / MANIFEST)
    for old in _by_step(folder)[keep:] if here.first else ():
        if old.name != f"step-{state.best_step or 0:06d}":
            shutil.rmtree(old)
    wait()
    return target


def write_tensors(staging: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Write the weights that train and the optimizer's moments, or this process's share. Returns the digests."""
    share = f"-{world().rank:05d}" if is_sharded(model) else ""
    names = [f"{WEIGHTS}{share}.safetensors", f"{MOMENTS}{share}.safetensors"]
    for name, tensors in zip(names, (training_weights(model, optimizer), moments(model, optimizer)), strict=True):
        save_tensors({key: own_share(x) for key, x in tensors.items()}, staging / name)
    return _digests(staging, *names)


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, and a warning for each that is not; None where there is none."""
    if not folder.is_dir():
        return None
    remove_abandoned(folder)
    for checkpoint in _by_step(folder):
        try:
            verify(checkpoint)
        except MiniTransformerError as error:
            warnings.warn(f"{checkpoint}: skipped: {error}", stacklevel=2)
            put_aside(checkpoint)  # else it would stand in the way of the next checkpoint of this step
        else:
            return checkpoint
    return None


def put_aside(checkpoint: Path) -> None:
    """Give a damaged checkpoint a name that is none of a checkpoint."""
    damaged = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(damaged, ignore_errors=True)
    checkpoint.rename(damaged)


def best(folder: Path) -> Path | None:
    """The checkpoint with the best score so far; None where none was judged, and with a warning where it is damaged."""
    last = newest(folder)
    step = None if last is None else state_of(last).best_step
    if step is None:
        return None
    found = folder / f"step-{step:06d}"
    try:
        verify(found)
    except MiniTransformerError as error:
        warnings.warn(f"{found}: it has the best weights and cannot be used: {error}", stacklevel=2)
        return None
    return found


def verify(checkpoint: Path) -> None:
    """Raise a CorruptFileError unless every file is there and has the sha256 that the manifest says."""
    files = read_json(checkpoint / MANIFEST).get("files")
    if not isinstance(files, dict) or not _whole(set(files)):
        raise CorruptFileError(f"{checkpoint / MANIFEST}: it does not name the files of a checkpoint")
    for name, expected in files.items():
        if not (checkpoint / name).is_file() or _digest(checkpoint / name) != expected:
            raise CorruptFileError(f"{checkpoint / name}: it is not what was written (its sha256 differs)")


def restore(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """Put a checkpoint's weights into the model, its moments into the optimizer. Returns where the run was."""
    restore_weights(checkpoint, model)
    parameters = dict(model.named_parameters())
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for key, x in tensors_of(checkpoint, MOMENTS):
        name, _, kind = key.rpartition("|")
        if name not in parameters:
            raise CorruptFileError(f"{checkpoint}: it remembers {name!r}, which this model has not")
        # The number of a step is on the CPU, but for an optimizer that computes it with the weights.
        on_cpu = kind == "step" and not fused
        optimizer.state[parameters[name]][kind] = x if on_cpu else spread_as(x, parameters[name])
    return state_of(checkpoint)


def state_of(checkpoint: Path) -> State:
    """Where a run was when the checkpoint was written."""
    state = read_json(checkpoint / STATE)
    try:
        return State(**state)
    except TypeError as error:
        raise CorruptFileError(f"{checkpoint / STATE}: {error}") from None


def restore_weights(checkpoint: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights into the model, which must have them."""
    parameters = dict(model.named_parameters())
    for name, x in tensors_of(checkpoint, WEIGHTS):
        if name not in parameters or parameters[name].shape != x.shape:
            raise CorruptFileError(
                f"{checkpoint}: its {name} {list(x.shape)} does not fit this model; it is of another run"
            )
        with torch.no_grad():
            parameters[name].copy_(spread_as(x, parameters[name]))


def tensors_of(checkpoint: Path, kind: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of WEIGHTS or MOMENTS by name, one at a time, put together from the shares of several processes."""
    with ExitStack() as stack:
        paths = sorted(checkpoint.glob(f"{kind}*.safetensors"))
        files = [stack.enter_context(safe_open(path, "pt")) for path in paths]
        for name in files[0].keys():  # noqa: SIM118 - it is no dict
            shares = [file.get_tensor(name) for file in files]
            yield name, torch.cat(shares) if shares[0].ndim else shares[0]


def training_weights(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The weights that train, by name: all that the optimizer holds, those that wait for their turn among them."""
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    return {name: p.detach() for name, p in model.named_parameters() if p in held}


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of each weight: "name|exp_avg" and so on."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}|{kind}": x
        for parameter, kept in optimizer.state.items()
        for kind, x in kept.items()
        if isinstance(x, Tensor)
    }


def _by_step(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first."""
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def _whole(names: set[str]) -> bool:
    """Whether these are all files of a checkpoint: as many with weights as with moments."""
    kinds = [match[1] for name in names if (match := TENSORS.fullmatch(name))]
    return STATE in names and len(kinds) == len(names) - 1 and kinds.count(WEIGHTS) * 2 == len(kinds) > 0


def _digests(folder: Path, *names: str) -> dict[str, Any]:
    return {name: _digest(folder / name) for name in names}


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
