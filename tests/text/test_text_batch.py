"""A Batch is a dict of tensors, and nothing else."""

import copy
import pickle

import pytest
import torch

from minitransformer.text import Batch
from minitransformer.text.batch import real_positions, scatter


@pytest.fixture
def batch():
    return Batch({"input_ids": torch.tensor([[1, 2], [3, 4]]), "attention_mask": torch.ones(2, 2)}, truncated={1: 5})


def test_it_is_a_dict(batch):
    assert dict(**batch) == dict(batch)
    assert list(batch) == ["input_ids", "attention_mask"]
    assert len(batch) == 2
    assert not hasattr(batch, "input_ids")


def test_to_another_device_leaves_this_one(batch):
    moved = batch.to("meta")
    assert all(tensor.device.type == "meta" for tensor in moved.values())
    assert all(tensor.device.type == "cpu" for tensor in batch.values())
    assert moved.truncated == {1: 5}
    assert isinstance(moved, Batch)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))])
def test_copies(batch, copied):
    twin = copied(batch)
    assert isinstance(twin, Batch)
    assert twin["input_ids"].equal(batch["input_ids"])
    assert twin.truncated == {1: 5}


def test_nothing_was_truncated_unless_said():
    first, second = Batch({}), Batch({})
    first.truncated[0] = 1
    assert second.truncated == {}


@pytest.mark.parametrize(
    ("side", "expected"), [("left", [[0, 0, 7], [8, 9, 6], [0, 0, 0]]), ("right", [[7, 0, 0], [8, 9, 6], [0, 0, 0]])]
)
def test_rows_to_tensor(side, expected):
    real = real_positions([1, 3, 0], 3, side)
    assert scatter([[7], [8, 9, 6], []], real, 0).tolist() == expected
    assert scatter([[7], [8, 9, 6], []], real, 0).dtype is torch.int64
