"""open_checkpoint and save_tensors: what is chosen in a folder, and what it means that nothing is copied."""

import os
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from storage_helpers import run_python, same_bits

from minitransformer.errors import CorruptFileError, MiniTransformerError, NotFoundError, UnsafeFileError
from minitransformer.storage import open_checkpoint, save_tensors
from minitransformer.storage import weights as weights_module


def read(folder, name="w"):
    with open_checkpoint(folder) as weights:
        return weights.read(name)


def test_the_single_file_is_preferred_with_a_warning(tmp_path):
    save_file({"w": torch.tensor([1.0])}, tmp_path / "model.safetensors")
    save_file({"w": torch.tensor([2.0])}, tmp_path / "x.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "x.safetensors"}}')
    with pytest.warns(UserWarning, match="the single file is used"):
        assert read(tmp_path).tolist() == [1.0]


@pytest.mark.parametrize(
    ("present", "error", "words"),
    [
        ([], NotFoundError, "it holds nothing"),
        (["config.json", "vocab.txt"], NotFoundError, "it holds config.json, vocab.txt"),
        ([f"file{i:02}" for i in range(30)], NotFoundError, "and 20 more"),
        (["pytorch_model.bin"], UnsafeFileError, "allow_pickle=True"),
        (["pytorch_model.bin.index.json"], UnsafeFileError, "save_pretrained"),
        (["pytorch_model.bin", "tf_model.h5"], UnsafeFileError, "pickle"),
        (["tf_model.h5", "config.json"], NotFoundError, "unsupported format: tf_model.h5"),
        (["flax_model.msgpack"], NotFoundError, "unsupported format: flax_model.msgpack"),
        (["rust_model.ot"], NotFoundError, "unsupported format: rust_model.ot"),
        (["model.onnx"], NotFoundError, "unsupported format: model.onnx"),
    ],
)
def test_without_weights_the_error_says_what_is_there(tmp_path, present, error, words):
    for name in present:
        (tmp_path / name).touch()
    with pytest.raises(error) as caught, open_checkpoint(tmp_path):
        pass
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_no_folder_and_a_dangling_link(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"), open_checkpoint(tmp_path / "nowhere"):
        pass
    (tmp_path / "model.safetensors").symlink_to("gone")
    with pytest.raises(NotFoundError, match=r"model\.safetensors"), open_checkpoint(tmp_path):
        pass


def test_tensors_outlive_the_file_and_its_name(tmp_path):
    expected = torch.arange(100_000, dtype=torch.float32)
    save_file({"w": expected}, tmp_path / "model.safetensors")
    tensor = read(tmp_path)
    save_file({"w": expected + 1}, tmp_path / "next.safetensors")
    os.replace(tmp_path / "next.safetensors", tmp_path / "model.safetensors")  # as an atomic save does
    assert torch.equal(tensor, expected)
    (tmp_path / "model.safetensors").unlink()
    assert torch.equal(tensor, expected)


def test_training_in_place_leaves_the_file_alone(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(1, 100_000)}, file)
    before = file.read_bytes()
    linear = torch.nn.Linear(100_000, 1, device="meta")
    linear.load_state_dict({"weight": read(tmp_path), "bias": torch.zeros(1)}, strict=False, assign=True)
    optimizer = torch.optim.SGD([linear.weight], lr=0.5)
    linear.weight.sum().backward()
    optimizer.step()
    assert linear.weight.unique().tolist() == [0.5]
    assert file.read_bytes() == before
    assert read(tmp_path).unique().tolist() == [1.0]


def test_nothing_is_copied_unless_it_lies_askew(tmp_path):
    def on_file(tensor):
        with open("/proc/self/maps", encoding="utf-8") as maps:
            ranges = [line.split()[0].split("-") for line in maps if "model.safetensors" in line]
        return any(int(begin, 16) <= tensor.data_ptr() < int(end, 16) for begin, end in ranges)

    if not os.path.exists("/proc/self/maps"):
        pytest.skip("only Linux tells what a piece of memory belongs to")
    save_file({"w": torch.arange(1000.0)}, tmp_path / "model.safetensors")
    tensor = read(tmp_path)
    assert on_file(tensor)

    data = (tmp_path / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    (tmp_path / "model.safetensors").write_bytes(
        struct.pack("<Q", length + 3) + data[8 : 8 + length] + b"   " + data[8 + length :]
    )
    askew = read(tmp_path)
    assert askew.data_ptr() % 4 == 0
    assert torch.equal(askew, torch.arange(1000.0))


def test_a_file_that_changes_after_its_header_was_read(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as weights:
        save_file({"w": torch.ones(1, 2)}, tmp_path / "model.safetensors")
        with pytest.raises(CorruptFileError, match="has changed"):
            weights.read("w")
    with open_checkpoint(tmp_path) as weights:
        save_file({"v": torch.ones(1, 2)}, tmp_path / "model.safetensors")
        with pytest.raises(CorruptFileError, match="'w' cannot be read"):
            weights.read("w")


def test_each_file_is_opened_once_and_none_for_the_headers_alone(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "safetensors.safe_open", lambda *args, **kwargs: opened.append(args) or safe_open(*args, **kwargs)
    )
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as weights:
        assert weights.infos["b"].shape == (3,)
        assert opened == []
        weights.read("a"), weights.read("b"), weights.read("a")
    assert len(opened) == 1


def test_importing_and_reading_headers_needs_no_torch(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    script = (
        "import sys; from minitransformer.storage import open_checkpoint\n"
        "with open_checkpoint('.') as weights: assert list(weights.infos) == ['w']\n"
        "print([name for name in ('torch', 'huggingface_hub', 'transformers') if name in sys.modules])"
    )
    done = run_python(script, cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_large_file_takes_its_size_in_memory_once(tmp_path):
    if not os.path.exists("/proc/self/status"):
        pytest.skip("only Linux tells the peak")
    tensors = {f"w{i}": torch.ones(2**20) for i in range(10)}  # 40 MiB
    save_file(tensors, tmp_path / "model.safetensors")
    script = """
import torch
from safetensors import safe_open
from minitransformer.storage import open_checkpoint
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
torch.ones(2**20).sum()
before = peak()
with open_checkpoint(".") as weights:
    tensors = {name: torch.nn.Parameter(weights.read(name)) for name in weights.infos}
assert sum(t.sum().item() for t in tensors.values()) == 10 * 2**20
print((peak() - before) / 40 / 1024)
"""
    done = run_python(script, cwd=tmp_path)
    assert 0.9 < float(done.stdout) < 1.1, done.stderr


# --- writing ----------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_by_safetensors(tmp_path):
    tensors = {
        "plain": torch.randn(3, 4),
        "transposed": torch.randn(3, 4).T,
        "slice": torch.arange(10)[2:9:3],
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "half": torch.randn(5).to(torch.bfloat16),
        "scalar": torch.tensor(True),
        "none": torch.empty(0, 3),
    }
    save_tensors(tensors, tmp_path / "model.safetensors")
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(same_bits(loaded[name], tensors[name].detach()) for name in tensors)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_others_may_read_the_file_as_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        save_tensors({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o640


big = torch.ones(4, 4)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"w": torch.empty(2, device="meta")}, "'w': it is meta"),
        ({"w": torch.ones(2).to_sparse()}, "sparse"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "complex64"),
        ({"w": torch.ones(2, dtype=torch.float8_e4m3fn)}, "float8"),
        ({"a": big, "b": big}, "'a' and 'b': they share memory"),
        ({"a": big, "b": big.T}, "'a' and 'b': they share memory"),
        ({"a": big[:3], "b": big[1:]}, "share memory"),
        ({"__metadata__": big}, "__metadata__"),
        ({"\ud800": big}, "cannot save"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, tensors, words):
    with pytest.raises(MiniTransformerError) as caught:
        save_tensors(tensors, tmp_path / "model.safetensors")
    assert words in str(caught.value)


def test_parts_of_one_tensor_that_do_not_overlap_are_fine(tmp_path):
    save_tensors({"a": big[:2], "b": big[2:]}, tmp_path / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors")["b"].shape == (2, 4)


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(MiniTransformerError, match="cannot save"):
        save_tensors({"a": big}, tmp_path / "nowhere" / "model.safetensors")


def test_the_names_are_those_of_transformers():
    from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

    assert (weights_module.SINGLE, weights_module.INDEX) == (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    assert (weights_module.PICKLE, weights_module.PICKLE_INDEX) == (WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
