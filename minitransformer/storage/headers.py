"""The header of a safetensors file: which tensors it holds, checked in full before a byte of them is used.

    8 bytes: N, little-endian | N bytes of JSON: {name: {dtype, shape, data_offsets}, …} | the tensors, end to end

The checks are stricter than those of the safetensors library, which takes duplicate names, unknown fields, a header
that starts with a space, `"__metadata__": null`, an axis too long for torch beside one of 0, and dtypes that no model
here has. The format has no checksum: a file that passes can still hold wrong numbers.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitransformer.errors import CorruptFileError
from minitransformer.storage.files import LFS_HINT, is_lfs_pointer, open_regular, parse_object, quote

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
DTYPE_OF_TORCH = {  # by name, so that this file needs no torch
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int64": "I64", "torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": "U8",
    "torch.bool": "BOOL",
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 1_000_000
MAX_ELEMENTS = 2**63 - 1  # torch counts elements in a signed 64-bit integer


@dataclass(frozen=True)
class TensorInfo:
    """What a header says about one tensor."""

    name: str
    dtype: str  # as safetensors writes it: "F32", "BF16", …
    shape: tuple[int, ...]
    file: Path


def read_header(path: str | Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name, from its header alone; CorruptFileError names the failed check."""
    path = Path(path)
    try:
        header, data_bytes = _split(path)
        entries = _parse(header)
        infos, ranges = {}, []
        for name, entry in entries.items():
            infos[name] = _check_tensor(name, entry, path)
            ranges.append((*entry["data_offsets"], name))
        _check_coverage(ranges, data_bytes)
    except ValueError as error:
        raise CorruptFileError(f"{path}: {error}") from error
    return infos


def _split(path: Path) -> tuple[bytes, int]:
    """The bytes of the header, and how many bytes of tensors follow it."""
    with open_regular(path) as file:
        total = os.fstat(file.fileno()).st_size
        start = file.read(1024)
        if is_lfs_pointer(start):
            raise ValueError(LFS_HINT)
        if len(start) < 8:
            raise ValueError(f"only {total} bytes long, too short for a safetensors file; download it again")
        length = int.from_bytes(start[:8], "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"its header would have {length} bytes, more than {MAX_HEADER_BYTES}: not safetensors")
        if 8 + length > total:
            raise ValueError(f"truncated: the header ends at byte {8 + length}, the file at {total}; download it again")
        file.seek(8)
        return file.read(length), total - 8 - length


def _parse(header: bytes) -> dict[str, Any]:
    """The header's JSON without its free-text metadata."""
    if not header.startswith(b"{"):
        raise ValueError("its header does not start with '{': not safetensors, or damaged")
    # Every tensor needs one brace and two brackets: counting them bounds the memory that parsing can take.
    if max(header.count(b"{"), header.count(b"[") // 2) > MAX_TENSORS + 2:
        raise ValueError(f"its header lists more than {MAX_TENSORS} tensors")
    try:
        entries = parse_object(header, MAX_HEADER_BYTES)
    except ValueError as error:
        raise ValueError(f"its header is damaged: {error}; download it again") from error
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ must map text to text")
    return entries


def _check_tensor(name: str, entry: Any, path: Path) -> TensorInfo:
    """One entry of the header: known dtype, sound shape, as many bytes as the two ask for."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {quote(name)}: dtype, shape and data_offsets are expected, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise ValueError(
            f"tensor {quote(name)} has dtype {quote(dtype)}, which is not supported; try {', '.join(DTYPE_BYTES)}"
        )
    if not _naturals(shape):
        raise ValueError(f"tensor {quote(name)}: its shape must be a list of whole numbers from 0 up")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {quote(name)}: its data_offsets must be a first and a last position")
    needed = _elements(name, shape) * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != needed:
        raise ValueError(
            f"tensor {quote(name)}: {dtype} {quote(shape)} takes {needed} bytes, its data_offsets are {offsets}"
        )
    return TensorInfo(name, dtype, tuple(shape), path)


def _naturals(value: Any) -> bool:
    """Whether this is a list of integers from 0 up. In Python a bool counts as an integer; here it does not."""
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _elements(name: str, shape: list[int]) -> int:
    """The number of elements. A zero does not excuse an axis too long for torch, so the others are multiplied alone."""
    count = 1
    for size in shape:
        count *= max(size, 1)
        if count > MAX_ELEMENTS:
            raise ValueError(f"tensor {quote(name)}: its shape overflows 64-bit arithmetic")
    return 0 if 0 in shape else count


def _check_coverage(ranges: list[tuple[int, int, str]], data_bytes: int) -> None:
    """The tensors must lie end to end: no hole where something could hide, no overlap, no byte left over."""
    position = 0
    for begin, end, name in sorted(ranges):
        if end > data_bytes:
            raise ValueError(f"truncated: tensor {quote(name)} ends at byte {end} of {data_bytes}; download it again")
        if begin != position:
            problem = "a hole before" if begin > position else "an overlap with"
            raise ValueError(
                f"there is {problem} tensor {quote(name)} (it starts at byte {begin}, expected {position})"
            )
        position = end
    if position != data_bytes:
        raise ValueError(f"{data_bytes - position} bytes follow the last tensor; download it again")
