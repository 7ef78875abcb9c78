"""read_header: every check on its own, then whatever hypothesis can think of, with safetensors itself as the oracle."""

import json
import struct
import time

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from storage_helpers import entry, file_bytes, same_bits

from minitransformer.errors import CorruptFileError, MiniTransformerError, NotFoundError
from minitransformer.storage import open_checkpoint, read_header
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


# --- any header at all ------------------------------------------------------------------------------------------------

names = st.text(max_size=6) | st.sampled_from(["a", "b", "__metadata__", "../../etc/x"])
dtypes = st.sampled_from([*DTYPE_BYTES, "F8_E5M2", "U16", "C64", "f32"])
sizes = st.integers(0, 3)
numbers = st.integers(-3, 40) | st.sampled_from([2**31, 2**63, 2**64, 1.0, True, None, "1", [], 10**30])


@st.composite
def sound_files(draw):
    """(entries, tensor bytes) of a file that nobody may refuse."""
    entries, position = {}, 0
    for name in draw(st.lists(names.filter(lambda name: name != "__metadata__"), max_size=4, unique=True)):
        dtype, shape = draw(st.sampled_from(list(DTYPE_BYTES))), draw(st.lists(sizes, max_size=3))
        end = position + torch.Size(shape).numel() * DTYPE_BYTES[dtype]
        entries[name] = entry(dtype, shape, position, end)
        position = end
    shuffled = dict(draw(st.permutations(list(entries.items()))))
    return shuffled, draw(st.binary(min_size=position, max_size=position))


@st.composite
def damaged_files(draw):
    """A sound file with one or two wounds."""
    entries, data = draw(sound_files())
    raw = None
    for wound in draw(st.lists(st.integers(0, 6), min_size=1, max_size=2)):
        name = draw(st.sampled_from(sorted(entries))) if entries else "a"
        before = entries[name] if isinstance(entries.get(name), dict) else A
        if wound == 0:
            entries[name] = {**before, "data_offsets": [draw(numbers), draw(numbers)]}
        elif wound == 1:
            entries[name] = {**before, "shape": draw(st.lists(numbers, max_size=3))}
        elif wound == 2:
            entries[name] = {**before, "dtype": draw(dtypes)}
        elif wound == 3:
            entries[draw(names)] = draw(st.sampled_from([None, 1, {}, [], {"format": "pt"}, dict(A)]))
        elif wound == 4:
            data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=3))
        elif wound == 5:
            raw = (raw or json.dumps(entries).encode()) + draw(st.sampled_from([b" ", b"\0", b"}", b"\n", b"//"]))
        else:
            text = raw or json.dumps(entries, ensure_ascii=draw(st.booleans())).encode()
            at = draw(st.integers(0, len(text)))
            raw = text[:at] + draw(st.binary(max_size=2)) + text[at + draw(st.integers(0, 2)) :]
    whole = file_bytes(raw if raw is not None else entries, data)
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 9)) == 0 else whole


def read_all(folder):
    with open_checkpoint(folder) as weights:
        return {name: weights.read(name) for name in weights.infos}


def check_against_safetensors(folder, data):
    """What we accept, safetensors accepts, with the same names and bits; the rest is an error of our own."""
    path = put(folder, data)
    try:
        ours = read_all(folder)
    except MiniTransformerError:
        return False
    theirs = load_file(path)
    assert ours.keys() == theirs.keys()
    assert all(same_bits(ours[name], theirs[name]) for name in ours)
    return True


fuzz = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=150, **fuzz)
@given(sound_files())
def test_sound_files_are_accepted(tmp_path, file):
    assert check_against_safetensors(tmp_path, file_bytes(*file))


@settings(max_examples=200, **fuzz)
@given(damaged_files())
def test_damaged_files_never_surprise(tmp_path, data):
    check_against_safetensors(tmp_path, data)


@settings(max_examples=150, **fuzz)
@given(st.binary(max_size=120) | st.binary(max_size=120).map(file_bytes))
def test_random_bytes_never_surprise(tmp_path, data):
    check_against_safetensors(tmp_path, data)


@pytest.mark.slow
@settings(max_examples=20_000, **fuzz)
@given(damaged_files())
def test_damaged_files_never_surprise_in_many_cases(tmp_path, data):
    check_against_safetensors(tmp_path, data)
