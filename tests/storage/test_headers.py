"""read_header: every check on its own. See test_storage_fuzz.py for files that nobody thought of."""

import json
import struct
import time

import pytest
import torch
from safetensors.torch import save_file
from storage_helpers import entry, file_bytes

from minitransformer.errors import CorruptFileError, NotFoundError
from minitransformer.storage import read_header
from minitransformer.storage.headers import DTYPE_BYTES, DTYPE_OF_TORCH

GOOD = {"a": entry("F32", [2, 3], 0, 24), "b": entry("I64", [], 24, 32), "c": entry("BOOL", [0], 32, 32)}
A = entry("F32", [2], 0, 8)


def put(folder, data):
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return path


def test_says_what_safetensors_wrote(tmp_path):
    dtypes = [getattr(torch, name.removeprefix("torch.")) for name in DTYPE_OF_TORCH]
    tensors = {str(dtype): torch.ones(2, 3, 1, dtype=dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(1.0), "empty": torch.empty(0, 5), "Ünïcode/../x": torch.zeros(1)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    infos = read_header(tmp_path / "x.safetensors")
    assert infos.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert infos[name].name == name
        assert infos[name].shape == tuple(tensor.shape)
        assert infos[name].dtype == DTYPE_OF_TORCH[str(tensor.dtype)]
        assert infos[name].file == tmp_path / "x.safetensors"
        assert DTYPE_BYTES[infos[name].dtype] == tensor.element_size()


def test_metadata_and_padding_are_allowed(tmp_path):
    padded = json.dumps({"__metadata__": {"format": "np", "note": "{["}, **GOOD}).encode() + b"   "
    assert set(read_header(put(tmp_path, file_bytes(padded, bytes(32))))) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "too short"),
        (b"1234567", "too short"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (struct.pack("<Q", 100_000_001) + b"{}", "more than 100000000"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "more than 100000000"),
        (struct.pack("<Q", 9999) + b"{}", "truncated"),
        (file_bytes(GOOD, bytes(32))[:-1], "truncated: tensor 'b' ends at byte 32 of 31"),
        (file_bytes(GOOD, bytes(33)), "1 bytes follow the last tensor"),
        (file_bytes({}, b"x"), "1 bytes follow"),
        (file_bytes(b" {}"), "start with '{'"),
        (file_bytes(b""), "start with '{'"),
        (file_bytes(b"[]"), "start with '{'"),
        (file_bytes(b"{"), "line 1, column 2"),
        (file_bytes(b'{"a\xff": 1}'), "UTF-8"),
        (file_bytes(b'{"a":' * 90_000), "nested too deeply"),
        (file_bytes(b'{"a":%b,"a":%b}' % ((json.dumps(A).encode(),) * 2), bytes(8)), "'a' is given twice"),
        (file_bytes(b'{"a":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}}', bytes(4)), "given twice"),
        (file_bytes({"__metadata__": {"a": 1}}), "__metadata__"),
        (file_bytes({"__metadata__": None}), "__metadata__"),
        (file_bytes({"a": None}), "'a': dtype, shape and data_offsets"),
        (file_bytes({"a": {**A, "extra": 1}}, bytes(8)), "nothing else"),
        (file_bytes({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "'a': dtype, shape and data_offsets"),
        (file_bytes({"a": entry("F8_E4M3", [8], 0, 8)}, bytes(8)), "'a' has dtype 'F8_E4M3', which is not supported"),
        (file_bytes({"a": entry("F4", [8], 0, 4)}, bytes(4)), "'F4', which is not supported"),
        (file_bytes({"a": entry(["F32"], [2], 0, 8)}, bytes(8)), "not supported"),
        (file_bytes({"a": entry("F32", 2, 0, 8)}, bytes(8)), "its shape"),
        (file_bytes({"a": entry("F32", [-2], 0, 8)}, bytes(8)), "its shape"),
        (file_bytes({"a": entry("F32", [2.0], 0, 8)}, bytes(8)), "its shape"),
        (file_bytes({"a": entry("F32", [True, 2], 0, 8)}, bytes(8)), "its shape"),
        (file_bytes({"a": entry("F32", ["2"], 0, 8)}, bytes(8)), "its shape"),
        (file_bytes({"a": entry("U8", [2**32, 2**32], 0, 0)}), "overflows"),
        (file_bytes({"a": entry("U8", [0, 2**63], 0, 0)}), "overflows"),
        (file_bytes({"a": entry("U8", [10**4000] * 100, 0, 0)}), "overflows"),
        (file_bytes({"a": entry("F32", [3], 0, 8)}, bytes(8)), "takes 12 bytes"),
        (file_bytes({"a": entry("F32", [1], 0, 8)}, bytes(8)), "takes 4 bytes"),
        (file_bytes({"a": entry("F32", [2], 8, 0)}, bytes(8)), "takes 8 bytes"),
        (file_bytes({"a": entry("F32", [2], -8, 0)}, bytes(8)), "data_offsets"),
        (file_bytes({"a": {**A, "data_offsets": [0, 8, 8]}}, bytes(8)), "data_offsets"),
        (file_bytes({"a": {**A, "data_offsets": [0.0, 8]}}, bytes(8)), "data_offsets"),
        (file_bytes({"a": entry("F32", [2], 2**70, 2**70 + 8)}, bytes(8)), "truncated"),
        (file_bytes({"a": entry("F32", [2], 4, 12)}, bytes(12)), "a hole before tensor 'a'"),
        (file_bytes({"a": A, "b": entry("F32", [2], 12, 20)}, bytes(20)), "a hole before tensor 'b'"),
        (file_bytes({"a": A, "b": entry("F32", [2], 4, 12)}, bytes(12)), "an overlap with tensor 'b'"),
        (file_bytes({"a": A, "b": A}, bytes(8)), "an overlap with tensor 'b'"),
    ],
)  # fmt: skip
def test_every_check(tmp_path, data, words):
    path = put(tmp_path, data)
    with pytest.raises(CorruptFileError) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_huge_header_is_refused_quickly(tmp_path):
    start = time.perf_counter()
    many = b"{" + b",".join(b'"%d":{}' % i for i in range(1_000_010)) + b"}"
    with pytest.raises(CorruptFileError, match="more than 1000000 tensors"):
        read_header(put(tmp_path, file_bytes(many)))
    names = b"{" + b",".join(b'"%d":0' % i for i in range(300_000)) + b',"299999":0}'
    with pytest.raises(CorruptFileError, match="'299999' is given twice"):
        read_header(put(tmp_path, file_bytes(names)))
    assert time.perf_counter() - start < 20


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(NotFoundError, match=r"no x\.safetensors"):
        read_header(tmp_path / "x.safetensors")
    with pytest.raises(NotFoundError, match="a file is expected"):
        read_header(tmp_path)
