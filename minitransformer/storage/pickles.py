"""pytorch_model.bin, for those who ask for it: a pickle, read by the part of torch that takes nothing but tensors."""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitransformer.errors import CorruptFileError, UnsafeFileError
from minitransformer.storage.files import LFS_HINT, is_lfs_pointer, open_regular, quote
from minitransformer.storage.headers import DTYPE_BYTES, DTYPE_OF_TORCH, TensorInfo
from minitransformer.storage.index import read_index, shard_path

if TYPE_CHECKING:
    import torch

PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"


def load_pickles(folder: Path) -> "tuple[dict[str, TensorInfo], Callable[[str], torch.Tensor]]":
    """The tensors of a folder's pickles, and a function that reads one.

    Names in a pickle often share memory (tied weights). `read` copies, so that no two parameters ever do by accident.
    """
    tensors: dict[str, torch.Tensor] = {}
    infos: dict[str, TensorInfo] = {}
    for file in _files(folder):
        for name, tensor in _tensors_only(_load(file), file).items():
            if name in infos:
                raise CorruptFileError(f"{folder}: tensor {quote(name)} is in {infos[name].file.name} and {file.name}")
            infos[name] = _describe(name, tensor, file)
            tensors[name] = tensor

    def read(name: str) -> "torch.Tensor":
        import torch

        return tensors[name].detach().clone(memory_format=torch.contiguous_format)

    return infos, read


def _files(folder: Path) -> list[Path]:
    if os.path.lexists(folder / PICKLE):
        return [folder / PICKLE]
    index = folder / PICKLE_INDEX
    weight_map = read_index(index, ".bin")
    return [shard_path(index, shard, weight_map) for shard in sorted(set(weight_map.values()))]


def _load(file: Path) -> Any:
    """What torch's restricted unpickler makes of a file: it knows tensors and plain containers, and calls nothing."""
    import torch

    with open_regular(file) as opened:
        if is_lfs_pointer(opened.read(1024)):
            raise CorruptFileError(f"{file} is {LFS_HINT}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and old storage types: nothing a user can change
            # Files from before torch 1.6 are no zip archives, and cannot be mapped into memory.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        reason = re.search(r"Unsupported \w+: .*?(?=[.\n] )|GLOBAL \S+", str(error))
        raise UnsafeFileError(
            f"{file} holds more than plain tensors, or is damaged, and was refused"
            f"{f' ({reason[0]})' if reason else ''}; use a safetensors file"
        ) from error
    except Exception as error:  # torch checks little: a damaged pickle ends in any exception at all
        raise CorruptFileError(f"{file} is damaged: {type(error).__name__}; download it again") from error


def _tensors_only(state: Any, file: Path) -> "dict[str, torch.Tensor]":
    """The tensors among the entries. Counters and settings that stand between them are named in a warning."""
    import torch

    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CorruptFileError(f"{file}: names mapped to tensors are expected, got {type(state).__name__}")
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        warnings.warn(f"{file}: ignored, as they are no tensors: {', '.join(map(quote, others[:10]))}", stacklevel=5)
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CorruptFileError(f"{file}: it holds no tensors by name; found {quote(list(state))}")
    return tensors


def _describe(name: str, tensor: "torch.Tensor", file: Path) -> TensorInfo:
    import torch

    dtype = DTYPE_OF_TORCH.get(str(tensor.dtype))
    if dtype is None or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise CorruptFileError(
            f"{file}: tensor {quote(name)} is {tensor.dtype}, {tensor.layout}, on {tensor.device}; only dense tensors"
            f" of {', '.join(DTYPE_BYTES)} are supported"
        )
    return TensorInfo(name, dtype, tuple(tensor.shape), file)
