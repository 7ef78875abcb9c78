"""The index of a checkpoint that is split over several files, and what each file of it must hold.

The index comes from the same stranger as the weights, and it names files: no name may lead out of the folder.
"""

import os
import re
import warnings
from pathlib import Path

from minitransformer.errors import CorruptFileError, NotFoundError, UnsafeFileError
from minitransformer.storage.files import (
    LFS_HINT,
    is_lfs_pointer,
    list_folder,
    listed,
    parse_object,
    quote,
    read_json_bytes,
)
from minitransformer.storage.headers import TensorInfo, read_header

SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


def read_index(path: Path, suffix: str = ".safetensors") -> dict[str, str]:
    """tensor name -> name of the shard that holds it; every shard's name is one plain file name with that suffix."""
    data = read_json_bytes(path)
    if is_lfs_pointer(data):
        raise CorruptFileError(f"{path} is {LFS_HINT}")
    try:
        weight_map = parse_object(data).get("weight_map")
    except ValueError as error:
        raise CorruptFileError(f"{path}: {error}; download it again") from error
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptFileError(f"{path}: weight_map must map tensor names to files, got {quote(weight_map)}")
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise CorruptFileError(f"{path}: tensor {quote(name)} must be mapped to a file, got {quote(shard)}")
        if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]*{re.escape(suffix)}", shard):
            raise UnsafeFileError(
                f"{path}: tensor {quote(name)} is mapped to {quote(shard)}, expected the plain name of a {suffix} file"
                " in the same folder; nothing was opened"
            )
    return weight_map


def read_shards(index: Path) -> dict[str, TensorInfo]:
    """The tensors of all shards of an index, from their headers. Index and shards must agree on every tensor."""
    weight_map = read_index(index)
    stray = {name for name in list_folder(index.parent) if SHARD.fullmatch(name)} - set(weight_map.values())
    if stray:
        warnings.warn(f"{index.parent}: not in {index.name}, and not read: {listed(sorted(stray))}", stacklevel=4)
    infos: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map.values())):
        for name, info in read_header(shard_path(index, shard, weight_map)).items():
            if name in infos:
                raise CorruptFileError(f"{index}: tensor {quote(name)} is in {infos[name].file.name} and in {shard}")
            if name not in weight_map:
                raise CorruptFileError(f"{index}: tensor {quote(name)} is in {shard}, but not in the index")
            infos[name] = info
    for name, shard in weight_map.items():
        if name not in infos or infos[name].file.name != shard:
            where = f"it is in {infos[name].file.name}" if name in infos else "no shard holds it"
            raise CorruptFileError(f"{index}: tensor {quote(name)} should be in {shard}, but {where}")
    return infos


def shard_path(index: Path, shard: str, weight_map: dict[str, str]) -> Path:
    """Where a shard is: in the index's folder, also after links are followed, or in the hub's own cache."""
    path = index.parent / shard
    if not os.path.lexists(path):
        tensor = next(name for name in weight_map if weight_map[name] == shard)
        raise NotFoundError(
            f"no {shard} in {index.parent}, where {index.name} expects it (for tensor {quote(tensor)});"
            f" the folder holds {listed(list_folder(index.parent))}; download it"
        )
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(root) for root in _allowed_roots(index.parent)):
        raise UnsafeFileError(
            f"{path} is a link to {real}, out of its folder; nothing was opened. Put the file itself there"
        )
    return path


def _allowed_roots(folder: Path) -> list[Path]:
    """The folder itself and, for a snapshot in the hub's cache, where the cache keeps the contents of its files.

    <cache>/models--org--name/snapshots/<commit>/model.safetensors is a link into <cache>/models--org--name/blobs,
    which can be a link again, into <cache>/blobs (files that several models share).
    """
    root = Path(os.path.realpath(folder))
    if len(root.parts) < 4 or root.parent.name != "snapshots" or not root.parents[1].name.startswith("models--"):
        return [root]
    return [root, root.parents[1] / "blobs", root.parents[2] / "blobs"]
