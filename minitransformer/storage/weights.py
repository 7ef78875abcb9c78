"""The weights in a folder: what they are, from the headers alone; reading one tensor at a time; writing them."""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minitransformer.errors import CorruptFileError, MiniTransformerError, NotFoundError, StorageError, UnsafeFileError
from minitransformer.storage.files import list_folder, listed, quote
from minitransformer.storage.headers import DTYPE_OF_TORCH, TensorInfo, read_header
from minitransformer.storage.index import read_shards
from minitransformer.storage.pickles import PICKLE, PICKLE_INDEX, load_pickles

if TYPE_CHECKING:
    import torch

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FOREIGN = (".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint: `infos` says what they are, `read(name)` gives one.

    A tensor may be used as a parameter as it is, without a copy. See `_mapped_reader` for why that is safe.
    """

    infos: dict[str, TensorInfo]
    read: "Callable[[str], torch.Tensor]"


@contextmanager
def open_checkpoint(folder: str | Path, *, allow_pickle: bool = False) -> Iterator[Weights]:
    """The weights of a folder, for use in a `with` statement; tensors that were read stay valid after it.

    Looks for model.safetensors, then for model.safetensors.index.json with its shards and, where `allow_pickle` is
    set, for pytorch_model.bin. All headers are checked before this returns; no tensor is read before it is asked for.
    """
    folder = Path(folder)
    single, index = folder / SINGLE, folder / INDEX
    with ExitStack() as stack:
        if os.path.lexists(single):
            if os.path.lexists(index):
                warnings.warn(f"{folder} has {SINGLE} and {INDEX}: the single file is used", stacklevel=3)
            infos = read_header(single)
            read = _mapped_reader(infos, stack)
        elif os.path.lexists(index):
            infos = read_shards(index)
            read = _mapped_reader(infos, stack)
        elif allow_pickle and any(os.path.lexists(folder / name) for name in (PICKLE, PICKLE_INDEX)):
            infos, read = load_pickles(folder)
        else:
            raise no_weights(str(folder), list_folder(folder))
        yield Weights(infos, read)


@contextmanager
def open_tensors(path: str | Path) -> Iterator[Weights]:
    """The tensors of one safetensors file, for use in a `with` statement, as those of `open_checkpoint`."""
    infos = read_header(path)
    with ExitStack() as stack:
        yield Weights(infos, _mapped_reader(infos, stack))


def _mapped_reader(infos: dict[str, TensorInfo], stack: ExitStack) -> "Callable[[str], torch.Tensor]":
    """A function that reads a tensor of these files, each of which is opened once and closed with `stack`.

    What was found for safetensors 0.8 on Linux, and what follows:
    - `get_tensor` copies nothing. It hands out a view of the file mapped into memory, privately (`rw-p` in
      /proc/self/maps): a write in place, as an optimiser does it, goes to a copy of that page and never to the file.
    - The mapping belongs to the tensors: it stays when the file is closed, deleted, or replaced by a rename. Only a
      file that is cut or overwritten *in place* shows through, which no save of ours does.
    - Two reads of one name give the same memory. Whoever wants two parameters has to clone one.
    - A header whose length is no multiple of 8 leaves its tensors off their natural alignment. The format allows it;
      such a tensor is copied, because not every kernel takes it.
    """
    from safetensors import SafetensorError, safe_open

    @functools.cache
    def opened(file: Path) -> Any:
        return stack.enter_context(safe_open(file, framework="pt"))

    def read(name: str) -> "torch.Tensor":
        info = infos[name]
        try:
            tensor: torch.Tensor = opened(info.file).get_tensor(name)
        except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise CorruptFileError(f"{info.file}: tensor {quote(name)} cannot be read: {error}") from error
        if (DTYPE_OF_TORCH.get(str(tensor.dtype)), tuple(tensor.shape)) != (info.dtype, info.shape):
            raise CorruptFileError(f"{info.file} has changed since its header was read; load it again")
        return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor

    return read


def no_weights(where: str, names: Iterable[str]) -> MiniTransformerError:
    """The error for a folder or a repository without weights that we read; it says what is there instead."""
    names = sorted(names)
    if PICKLE in names or PICKLE_INDEX in names:
        return UnsafeFileError(
            f"{where} has its weights in {PICKLE} only: a pickle, which can run code when it is opened. It was not"
            " opened. Load it with transformers and write it again with save_pretrained, which gives safetensors;"
            " or pass allow_pickle=True, which reads plain tensors and refuses anything else"
        )
    foreign = [name for name in names if name.endswith(FOREIGN)]
    if foreign:
        return NotFoundError(
            f"{where}: unsupported format: {listed(foreign)}; expected {SINGLE}. Load it with the library that made"
            " it and write it again with transformers' save_pretrained"
        )
    return NotFoundError(f"{where}: no {SINGLE} and no {INDEX}; it holds {listed(names)}")


def save_tensors(tensors: "Mapping[str, torch.Tensor]", path: str | Path) -> None:
    """Write tensors to a safetensors file. Not atomic by itself: call it inside `atomic_folder`."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    _check_savable(tensors)
    dense = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        path.touch()
        mode = path.stat().st_mode  # what the user's umask allows; safetensors would make the file private
        save_file(dense, path, metadata={"format": "pt"})  # some readers refuse a file that does not say "pt"
        path.chmod(mode)
    except (RuntimeError, ValueError) as error:  # memory shared in part; a name that is no text
        raise MiniTransformerError(f"cannot save {path}: {' '.join(str(error).split())}") from error
    except (SafetensorError, OSError) as error:
        raise StorageError(f"cannot save {path}: {error}; check free space and permissions") from error


def _check_savable(tensors: "Mapping[str, torch.Tensor]") -> None:
    """Each tensor dense, with data of its own and a dtype that we read back."""
    import torch

    first_at: dict[tuple[torch.device, int], str] = {}
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or str(tensor.dtype) not in DTYPE_OF_TORCH:
            kind = "meta (it has no data)" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}"
            raise MiniTransformerError(f"cannot save {quote(name)}: it is {kind}, expected a dense tensor with data")
        if name == "__metadata__":
            raise MiniTransformerError("cannot save a tensor named '__metadata__': safetensors keeps that name")
        if tensor.numel():
            other = first_at.setdefault((tensor.device, tensor.data_ptr()), name)
            if other != name:
                raise MiniTransformerError(
                    f"cannot save {quote(other)} and {quote(name)}: they share memory; keep one name, or clone one"
                )
