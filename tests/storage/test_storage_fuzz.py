"""Files that nobody thought of: any safetensors file and any index ends in its tensors, or in an error of ours.

Each property runs over 500 files, and over 20,000 with `-m slow`. For every one of them: no foreign exception, no more
than a moment and a few times the file's size in memory, no file opened outside the folder, and never other numbers than
those that the file holds. What safetensors itself says about the file is the oracle.
"""

import json
import os
import re
import struct
import sys
import time
import tracemalloc
import warnings
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from storage_helpers import entry, file_bytes, same_bits

from minitransformer.errors import MiniTransformerError
from minitransformer.storage import open_checkpoint
from minitransformer.storage.headers import DTYPE_BYTES

normal = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
many = settings(normal, max_examples=20_000)


# --- watching ---------------------------------------------------------------------------------------------------------

watching: list[list[str]] = []  # one list for each watcher; the hook below cannot be taken away again


def note(event, arguments):
    if watching and event == "open":
        watching[-1].append(arguments[0])


sys.addaudithook(note)


@contextmanager
def watched(folder, data_bytes):
    """Let the block open nothing outside `folder`, take little time, and little memory for files of this size."""
    opened: list = []
    inner = lambda path, *args, **kwargs: opened.append(path) or safe_open(path, *args, **kwargs)  # opens in Rust
    watching.append(opened)
    tracemalloc.start()
    start = time.thread_time()
    try:
        with mock.patch("safetensors.safe_open", inner):
            yield
    finally:
        spent, (_, peak) = time.thread_time() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        watching.pop()
    outside = [path for path in opened if not Path(os.path.realpath(path)).is_relative_to(folder)]
    assert not outside, outside
    assert spent < 5
    assert peak < 50 * data_bytes + 400_000  # 50 for parsed JSON, the rest for modules and messages


def read_all(folder):
    with open_checkpoint(folder) as weights:
        return weights.infos, {name: weights.read(name) for name in weights.infos}


# --- safetensors files ------------------------------------------------------------------------------------------------

A = entry("F32", [2], 0, 8)
names = st.text(max_size=6) | st.sampled_from(["a", "b", "__metadata__", "../../etc/x"])
dtypes = st.sampled_from([*DTYPE_BYTES, "F8_E5M2", "F4", "U16", "U32", "U64", "C64", "f32"])
numbers = st.integers(-3, 40) | st.sampled_from([2**31, 2**63, 2**64, 1.0, True, None, "1", [], 10**30])
words = r"""
    { } [ ] : , "" "a" "dtype" "shape" "data_offsets" "__metadata__" "\u0061" "\ud800" "\ud83d\ude00" "F32" "U8" 0 1 2 4
    8 -0 -1 01 +1 1. 1.0 1e0 1E1 0x1 1_0 NaN Infinity null true 18446744073709551615 18446744073709551616
"""
tokens = st.sampled_from(words.split())


@st.composite
def sound_files(draw):
    """(entries, tensor bytes) of a file that nobody may refuse."""
    entries, position = {}, 0
    for name in draw(st.lists(names.filter(lambda name: name != "__metadata__"), max_size=4, unique=True)):
        dtype, shape = draw(st.sampled_from(list(DTYPE_BYTES))), draw(st.lists(st.integers(0, 3), max_size=3))
        end = position + torch.Size(shape).numel() * DTYPE_BYTES[dtype]
        entries[name] = entry(dtype, shape, position, end)
        position = end
    shuffled = dict(draw(st.permutations(list(entries.items()))))
    if draw(st.booleans()):
        shuffled["__metadata__"] = {"format": "pt"}
    return shuffled, draw(st.binary(min_size=position, max_size=position))


@st.composite
def damaged_entries(draw):
    """A file whose header is sound JSON and says something wrong, or whose tensors have another length."""
    entries, data = draw(sound_files())
    for wound in draw(st.lists(st.integers(0, 5), min_size=1, max_size=2)):
        name, second = (draw(st.sampled_from(sorted(entries) or ["a"])) for _ in range(2))
        if wound == 5:
            offsets = [entries.get(which, A).get("data_offsets", [0, 8]) for which in (second, name)]
            for which, at in zip((name, second), offsets, strict=True):
                entries[which] = {**entries.get(which, A), "data_offsets": at}
        elif wound == 0:
            entries[name] = {**entries.get(name, A), "data_offsets": [draw(numbers), draw(numbers)]}
        elif wound == 1:
            entries[name] = {**entries.get(name, A), "shape": draw(st.lists(numbers, max_size=3))}
        elif wound == 2:
            entries[name] = {**entries.get(name, A), "dtype": draw(dtypes)}
        elif wound == 3:
            entries[draw(names)] = draw(st.sampled_from([{}, {"format": "pt"}, {**A, "more": 1}, dict(A)]))
        else:
            data = data[: draw(st.integers(0, len(data)))] + draw(st.binary(max_size=3))
    return file_bytes(entries, data)


@st.composite
def damaged_text(draw):
    """A file in whose header a few tokens of the JSON were replaced, doubled or taken away, or the whole doubled."""
    entries, data = draw(sound_files())
    text = json.dumps(entries, ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 9)) == 0:
        return file_bytes(f"{text[:-1]}, {text[1:]}".encode("utf-8", "surrogatepass"), data)
    pieces = re.findall(r'"(?:[^"\\]|\\.)*"|[0-9]+|[^"0-9]', text)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(pieces) - 1))
        pieces[at] = draw(st.one_of(tokens, st.just(""), st.just(pieces[at] * 2), st.sampled_from(pieces)))
    return file_bytes("".join(pieces).encode("utf-8", "surrogatepass"), data)


@st.composite
def damaged_bytes(draw):
    """A file with bytes overwritten, put in, taken out or doubled anywhere, or with another length of the header."""
    whole = file_bytes(*draw(sound_files()))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(whole)))
        end = min(len(whole), begin + draw(st.integers(0, 9)))
        new = draw(st.binary(max_size=9) | st.sampled_from([whole[begin:end] * 2, b"", bytes(8), b"\xff" * 8]))
        whole = whole[:begin] + new + whole[end:]
    header = int.from_bytes(whole[:8], "little")
    lengths = [0, 1, 2, header - 1, header + 1, len(whole) - 8, len(whole), 10**8, 10**8 + 1, 2**31, 2**63, 2**64 - 1]
    if draw(st.integers(0, 3)) == 0:
        whole = struct.pack("<Q", max(0, draw(st.sampled_from(lengths))) % 2**64) + whole[8:]
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 7)) == 0 else whole


raw = st.tuples(st.booleans(), st.binary(max_size=200)).map(lambda pair: file_bytes(pair[1]) if pair[0] else pair[1])
any_files = st.one_of(damaged_entries(), damaged_entries(), damaged_text(), damaged_text(), damaged_bytes(), raw)

# What we refuse and safetensors takes.
STRICTER = [
    "is given twice", "and nothing else", "which is not supported", "must map text to text", "overflows 64-bit",
    "start with '{'",
]  # fmt: skip


def what_safetensors_says(path):
    """name -> tensor, None for a dtype that torch does not have; or None altogether where it refuses the file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: read_or_none(file, name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError:
        return None


def read_or_none(file, name):
    try:
        return file.get_tensor(name)
    except (SafetensorError, AttributeError, TypeError, RuntimeError):
        return None


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def check_file(folder, data):
    path = folder / "model.safetensors"
    path.write_bytes(data)
    theirs = what_safetensors_says(path)
    with watched(folder, len(data)):
        try:
            infos, ours = read_all(folder)
        except MiniTransformerError as error:
            text = str(error)
            infos = None
    if infos is None:
        assert len(text) < 2000
        assert theirs is None or any(words in text for words in STRICTER), text
        return
    assert theirs is not None
    assert ours.keys() == theirs.keys()
    header = int.from_bytes(data[:8], "little")
    for name, said in json.loads(data[8 : 8 + header]).items():
        if name != "__metadata__":
            begin, end = said["data_offsets"]
            assert bits(ours[name]) == data[8 + header :][begin:end]
            assert same_bits(ours[name], theirs[name])
            assert list(ours[name].shape) == said["shape"]
            assert DTYPE_BYTES[infos[name].dtype] == ours[name].element_size()


@settings(normal, max_examples=150)
@given(sound_files())
def test_sound_files_are_accepted(tmp_path, file):
    (tmp_path / "model.safetensors").write_bytes(file_bytes(*file))
    assert read_all(tmp_path)[1].keys() == file[0].keys() - {"__metadata__"}


@normal
@given(any_files)
def test_no_safetensors_file_surprises(tmp_path, data):
    check_file(tmp_path, data)


@pytest.mark.slow
@many
@given(any_files)
def test_no_safetensors_file_surprises_in_many_cases(tmp_path, data):
    check_file(tmp_path, data)


# --- indexes and their shards -----------------------------------------------------------------------------------------

ONE, TWO, EXTRA = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2, 3))
HOLDS = {  # what may stand under the name of a shard -> the tensors in it
    "one": {"a": torch.ones(2), "b": torch.zeros(3)},
    "two": {"c": torch.arange(4)},
    "other": {"c": torch.arange(4) + 1, "d": torch.ones(1)},
    "none": {},
}
SECRET = {"a": torch.full((2,), 7.0), "b": torch.full((3,), 7.0), "c": torch.full((4,), 7)}
kinds = st.sampled_from([*HOLDS, "link", "cut", "gone", "link out", "link up", "folder", "pipe", "pointer", "loop"])
targets = st.sampled_from(
    [
        ONE, TWO, EXTRA, "", ".", "..", "../secret.safetensors", "/secret.safetensors", "./" + TWO, "sub/" + ONE,
        "..\\secret.safetensors", "%2e%2e/secret.safetensors", ONE + "\0", ONE + "\n", ONE.upper(), "model.bin", "-",
        "~/secret.safetensors", "file:///secret.safetensors", "x" * 300 + ".safetensors", 1, None, True, [ONE], {},
    ]
)  # fmt: skip
tensor_names = st.sampled_from(["a", "b", "c", "d", "__metadata__", "../x"]) | st.text(max_size=3)


@st.composite
def any_indexes(draw):
    """(what is at ONE, what is at TWO, the text of the index)."""
    at = tuple(usual if draw(st.integers(0, 2)) else draw(kinds) for usual in ("one", "two"))
    weight_map = {"a": ONE, "b": ONE, "c": TWO}
    for name in draw(st.lists(tensor_names, max_size=2)):
        if draw(st.booleans()):
            weight_map[name] = draw(targets | st.sampled_from([ONE, TWO, "./" + TWO]))
        else:
            weight_map.pop(name, None)
    whole = {"weight_map": weight_map, "metadata": draw(st.sampled_from([{"total_size": 52}, None, -1, "x"]))}
    odd = st.sampled_from([weight_map, [whole], {"weight_map": [ONE]}, {"weight_map": {}}, None])
    text = json.dumps(draw(odd) if draw(st.integers(0, 9)) == 0 else whole)
    if draw(st.integers(0, 5)) == 0:
        pieces = re.findall(r'"(?:[^"\\]|\\.)*"|[^"]', text)
        at_piece = draw(st.integers(0, len(pieces) - 1))
        pieces[at_piece] = draw(tokens | st.just(pieces[at_piece] * 2) | st.sampled_from(pieces))
        text = "".join(pieces)
    return at, text


@pytest.fixture
def prepared(tmp_path):
    """The folder of the checkpoint, and beside it a file that no index may lead to."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(save(SECRET))
    return folder


def put(folder, name, kind):
    """Let something of this kind stand at `name`; what was there goes."""
    path = folder / name
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    if kind in HOLDS:
        path.write_bytes(save(HOLDS[kind]))
    elif kind == "link":
        (folder / "inside").write_bytes(save(HOLDS["one"]))
        path.symlink_to("inside")
    elif kind == "cut":
        path.write_bytes(save(HOLDS["one"])[:-1])
    elif kind == "link out":
        path.symlink_to(folder.parent / "secret.safetensors")
    elif kind == "link up":
        path.symlink_to("../secret.safetensors")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "loop":
        path.symlink_to(name)


def expected(at, text):
    """The tensors that an index and its two shards promise, or None where something is wrong with them."""

    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a name twice")
        return dict(pairs)

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    try:
        index = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(index, ensure_ascii=False).encode()  # half of a surrogate pair is not text
        weight_map = index["weight_map"]
        held = {name: HOLDS["one" if kind == "link" else kind] for name, kind in zip((ONE, TWO), at, strict=True)
                if name in weight_map.values()}  # fmt: skip
        where = {tensor: name for name, tensors in held.items() for tensor in tensors}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    sound = sum(map(len, held.values())) == len(where) and where and where == weight_map
    return {tensor: held[name][tensor] for tensor, name in where.items()} if sound else None


def check_index(folder, at, text):
    for name, kind in zip((ONE, TWO), at, strict=True):
        put(folder, name, kind)
    (folder / "model.safetensors.index.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with warnings.catch_warnings(record=True) as told, watched(folder, len(text) + 1000):
        warnings.simplefilter("always")
        try:
            infos, ours = read_all(folder)
        except MiniTransformerError as error:
            ours, text_of_error = None, str(error)
    promised = expected(at, text)
    assert (ours is None) == (promised is None)
    if ours is None:
        assert len(text_of_error) < 2000
    else:
        assert ours.keys() == promised.keys()
        assert all(same_bits(ours[name], promised[name]) for name in ours)
        weight_map = {name: info.file.name for name, info in infos.items()}
        assert weight_map == json.loads(text)["weight_map"]
        unread = {name for name in (ONE, TWO) if os.path.lexists(folder / name)} - set(weight_map.values())
        assert len(told) == bool(unread)
        assert all(name in str(told[0].message) for name in unread)


@normal
@given(any_indexes())
def test_no_index_surprises(prepared, case):
    check_index(prepared, *case)


@pytest.mark.slow
@many
@given(any_indexes())
def test_no_index_surprises_in_many_cases(prepared, case):
    check_index(prepared, *case)
