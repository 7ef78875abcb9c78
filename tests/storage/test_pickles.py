"""pytorch_model.bin: only on request, only tensors, and never a line of code."""

import json
import os
import pickle
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_helpers import same_bits

from minitransformer.errors import CorruptFileError, MiniTransformerError, NotFoundError, UnsafeFileError
from minitransformer.storage import open_checkpoint

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.tensor(3)}


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def read_all(folder):
    with open_checkpoint(folder, allow_pickle=True) as weights:
        return weights.infos, {name: weights.read(name) for name in weights.infos}


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_both_formats_of_torch(tmp_path, zipped):
    torch.save(STATE, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    infos, tensors = read_all(tmp_path)
    assert {name: (info.dtype, info.shape) for name, info in infos.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("BF16", (2,)),
        "c": ("I64", ()),
    }
    assert all(same_bits(tensors[name], STATE[name]) for name in STATE)


def test_safetensors_comes_first(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert read_all(tmp_path)[1]["a"].item() == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_runs_nothing(tmp_path, zipped):
    file, mark = tmp_path / "pytorch_model.bin", tmp_path / "was_run"
    torch.save({"a": torch.ones(1), "b": Evil(mark)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeFileError, match=r"pytorch_model\.bin holds more than plain tensors.*mkdir"):
        read_all(tmp_path)
    file.write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(UnsafeFileError):
        read_all(tmp_path)
    assert not mark.exists()
    pickle.loads(file.read_bytes())  # the file does bite whoever opens it carelessly
    assert mark.exists()


def test_shared_memory_is_told_apart(tmp_path):
    table = torch.ones(4, 4)
    torch.save({"a": table, "b": table, "c": table[1:, :2], "d": table.T}, tmp_path / "pytorch_model.bin")
    _, tensors = read_all(tmp_path)
    tensors["a"].zero_()
    assert all(tensors[name].eq(1).all() and tensors[name].is_contiguous() for name in "bcd")
    assert tensors["c"].shape == (3, 2)


def test_parameters_come_back_as_tensors(tmp_path):
    torch.save({"a": torch.nn.Parameter(torch.ones(2))}, tmp_path / "pytorch_model.bin")
    tensor = read_all(tmp_path)[1]["a"]
    assert type(tensor) is torch.Tensor
    assert not tensor.requires_grad


def test_entries_that_are_no_tensors_are_ignored_aloud(tmp_path):
    torch.save({**STATE, "step": 3, "args": {"lr": 0.1}}, tmp_path / "pytorch_model.bin")
    with pytest.warns(UserWarning, match="ignored, as they are no tensors: 'step', 'args'") as caught:
        assert read_all(tmp_path)[0].keys() == STATE.keys()
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (torch.ones(2), "got Tensor"),
        ({1: torch.ones(2)}, "names mapped to tensors"),
        ({"step": 3}, "no tensors by name"),
        ({"a": torch.ones(2).to_sparse()}, "'a' is torch.float32, torch.sparse_coo"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "complex64"),
        ({"a": torch.empty(2, device="meta")}, "on meta"),
    ],
)
def test_what_is_not_a_table_of_dense_tensors(tmp_path, state, words):
    torch.save(state, tmp_path / "pytorch_model.bin")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CorruptFileError) as caught:
            read_all(tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"hello", b"PK\x03\x04junk"])
def test_damaged_files(tmp_path, data):
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    with pytest.raises((CorruptFileError, UnsafeFileError), match=r"pytorch_model\.bin"):
        read_all(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.booleans(), st.integers(0, 2000), st.binary(max_size=4), st.booleans())
def test_a_damaged_pickle_never_surprises(tmp_path, zipped, position, change, cut):
    file = tmp_path / "pytorch_model.bin"
    torch.save(STATE, file, _use_new_zipfile_serialization=zipped)
    data = file.read_bytes()
    at = position % len(data)
    file.write_bytes(data[:at] + change + (b"" if cut else data[at + len(change) :]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            infos, tensors = read_all(tmp_path)
    except MiniTransformerError:
        return
    assert all(tensors[name].shape == info.shape for name, info in infos.items())


def test_several_files(tmp_path):
    torch.save({"a": STATE["a"]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": STATE["b"]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}}
    place = tmp_path / "pytorch_model.bin.index.json"
    place.write_text(json.dumps(index))
    assert read_all(tmp_path)[0].keys() == {"a", "b"}

    place.write_text(json.dumps({"weight_map": {**index["weight_map"], "b": "../evil.bin"}}))
    with pytest.raises(UnsafeFileError, match=r"\.\./evil\.bin"):
        read_all(tmp_path)
    place.write_text(json.dumps({"weight_map": {**index["weight_map"], "b": "gone.bin"}}))
    with pytest.raises(NotFoundError, match=r"gone\.bin"):
        read_all(tmp_path)
    place.write_text(json.dumps(index))
    torch.save(STATE, tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(CorruptFileError, match="'a' is in"):
        read_all(tmp_path)
