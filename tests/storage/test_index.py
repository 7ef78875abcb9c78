"""Checkpoints in several files: an index that lies, shards that disagree, and names that try to leave the folder."""

import json

import pytest
import torch
from safetensors.torch import save_file

from minitransformer.errors import CorruptFileError, NotFoundError, UnsafeFileError
from minitransformer.storage import open_checkpoint

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
MAP = {"a": ONE, "b": ONE, "c": TWO}


@pytest.fixture
def sharded(tmp_path):
    """A sound checkpoint in two shards."""
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(2), "b": torch.zeros(3)}, folder / ONE)
    save_file({"c": torch.arange(4)}, folder / TWO)
    write_index(folder, {"metadata": {"total_size": 52}, "weight_map": MAP})
    return folder


def write_index(folder, index):
    text = index if isinstance(index, str) else json.dumps(index)
    (folder / "model.safetensors.index.json").write_text(text)


def open_all(folder):
    with open_checkpoint(folder) as weights:
        return weights.infos, {name: weights.read(name) for name in weights.infos}


@pytest.mark.parametrize("metadata", [{"metadata": {"total_size": -1}}, {"metadata": "odd"}, {"metadata": None}, {}])
def test_reads_over_all_shards_whatever_the_metadata(sharded, metadata):
    write_index(sharded, {**metadata, "weight_map": MAP})
    infos, tensors = open_all(sharded)
    assert {name: info.file.name for name, info in infos.items()} == MAP
    assert tensors["a"].tolist() == [1, 1]
    assert tensors["c"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "sub/model.safetensors",
        "..",
        ".hidden.safetensors",
        "model.safetensors/..",
        "model.safetensors\n",
        "model.bin",
        "C:\\model.safetensors",
        "%2e%2e%2fmodel.safetensors",
        "model\0.safetensors",
        "",
    ],
)
def test_an_index_cannot_name_a_file_elsewhere(sharded, name):
    save_file({"b": torch.zeros(3)}, sharded.parent / "outside.safetensors")
    write_index(sharded, {"weight_map": {**MAP, "b": name}})
    with pytest.raises(UnsafeFileError, match="'b'") as caught:
        open_all(sharded)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{", "line 1"),
        ("[]", "got list"),
        ("{}", "weight_map"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ({"weight_map": {}}, "weight_map"),
        ({"weight_map": [ONE]}, "weight_map"),
        ({"weight_map": {"a": 1}}, "'a' must be mapped to a file, got 1"),
        ({"weight_map": {"a": None}}, "got None"),
        ({"weight_map": {"a": [ONE]}}, "'a' must be mapped to a file"),
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "'a' is given twice"),
        ('{"weight_map":' * 100_000, "nested"),
    ],
)
def test_a_damaged_index(sharded, index, words):
    write_index(sharded, index)
    with pytest.raises(CorruptFileError) as caught:
        open_all(sharded)
    assert "model.safetensors.index.json" in str(caught.value)
    assert words in str(caught.value)


def test_a_missing_shard_is_named(sharded):
    (sharded / TWO).unlink()
    with pytest.raises(NotFoundError, match=rf"no {TWO} in .*tensor 'c'.*the folder holds {ONE}"):
        open_all(sharded)


def test_a_damaged_shard_is_named(sharded):
    (sharded / TWO).write_bytes((sharded / TWO).read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=TWO):
        open_all(sharded)


def test_a_tensor_in_two_shards(sharded):
    save_file({"c": torch.arange(4), "a": torch.ones(2)}, sharded / TWO)
    with pytest.raises(CorruptFileError, match=f"'a' is in {ONE} and in {TWO}"):
        open_all(sharded)


def test_a_tensor_missing_from_its_shard(sharded):
    save_file({"a": torch.ones(2)}, sharded / ONE)
    with pytest.raises(CorruptFileError, match=f"'b' should be in {ONE}, but no shard holds it"):
        open_all(sharded)


def test_a_tensor_in_another_shard_than_the_index_says(sharded):
    write_index(sharded, {"weight_map": {**MAP, "b": TWO}})
    with pytest.raises(CorruptFileError, match=f"'b' should be in {TWO}, but it is in {ONE}"):
        open_all(sharded)


def test_a_tensor_that_the_index_does_not_know(sharded):
    write_index(sharded, {"weight_map": {"a": ONE, "c": TWO}})
    with pytest.raises(CorruptFileError, match=f"'b' is in {ONE}, but not in the index"):
        open_all(sharded)


def test_a_shard_that_the_index_does_not_name_is_told(sharded):
    for name in ("model-00003-of-00003.safetensors", "adapter.safetensors"):
        save_file({"d": torch.ones(1)}, sharded / name)
    with pytest.warns(UserWarning, match=r"not read: model-00003-of-00003\.safetensors$") as caught:
        infos, _ = open_all(sharded)
    assert infos.keys() == MAP.keys()
    assert caught[0].filename == __file__


def test_a_link_out_of_the_folder_is_refused(sharded, tmp_path):
    (sharded / TWO).rename(tmp_path / "elsewhere.safetensors")
    (sharded / TWO).symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(UnsafeFileError, match=f"{TWO} is a link to .*elsewhere"):
        open_all(sharded)


def test_a_link_within_the_folder_and_a_link_to_the_folder_are_fine(sharded, tmp_path):
    (sharded / "data").mkdir()
    (sharded / TWO).rename(sharded / "data" / "x")
    (sharded / TWO).symlink_to("data/x")
    (tmp_path / "link").symlink_to(sharded)
    assert open_all(tmp_path / "link")[0].keys() == MAP.keys()


def hub_cache(sharded, cache, blob_of_two, layout="models--org--name/snapshots"):
    """The checkpoint as the hub's cache holds it: links from a snapshot to blobs."""
    snapshot = cache / layout / "0a1b"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "blobs").mkdir()
    (sharded / ONE).rename(snapshot.parents[1] / "blobs" / "11")
    (snapshot / ONE).symlink_to("../../blobs/11")
    blob_of_two.parent.mkdir(parents=True, exist_ok=True)
    (sharded / TWO).rename(blob_of_two)
    (snapshot.parents[1] / "blobs" / "22").symlink_to(blob_of_two)
    (snapshot / TWO).symlink_to("../../blobs/22")
    (sharded / "model.safetensors.index.json").rename(snapshot / "model.safetensors.index.json")
    return snapshot


def test_the_links_of_the_hubs_cache_are_fine(sharded, tmp_path):
    snapshot = hub_cache(sharded, tmp_path / "hub", tmp_path / "hub" / "blobs" / "ab" / "abcd")
    assert open_all(snapshot)[0].keys() == MAP.keys()


@pytest.mark.parametrize("layout", ["models--org--name/other", "org--name/snapshots"])
def test_what_only_resembles_the_hubs_cache_has_no_privilege(sharded, tmp_path, layout):
    snapshot = hub_cache(sharded, tmp_path / "hub", tmp_path / "hub" / "blobs" / "ab" / "abcd", layout)
    with pytest.raises(UnsafeFileError, match=ONE):
        open_all(snapshot)


def test_a_link_out_of_the_hubs_cache_is_refused(sharded, tmp_path):
    snapshot = hub_cache(sharded, tmp_path / "hub", tmp_path / "private" / "abcd")
    with pytest.raises(UnsafeFileError, match=TWO):
        open_all(snapshot)
