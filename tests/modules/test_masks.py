"""Each mask against its definition, key by key, and against its own drawing."""

import inspect
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.errors import InputError
from minitransformer.modules import masks

CPU = torch.device("cpu")
sizes = st.integers(1, 6)
attention_masks = st.integers(1, 6).flatmap(
    lambda keys: st.lists(st.lists(st.integers(0, 1), min_size=keys, max_size=keys), min_size=1, max_size=4)
)


def allowed(mask, b, t, s):
    """What the mask says for one query and one key; None allows everything."""
    if mask is None:
        return True
    assert mask.dtype == torch.bool
    assert mask.ndim == 4
    assert mask.shape[1] == 1
    return bool(mask[b if mask.shape[0] > 1 else 0, 0, t if mask.shape[2] > 1 else 0, s])


@given(rows=attention_masks)
def test_padding_mask(rows):
    mask = masks.padding_mask(torch.tensor(rows))
    for b, row in enumerate(rows):
        for s, keep in enumerate(row):
            for t in range(3):
                assert allowed(mask, b, t, s) == bool(keep)
    assert (mask is None) == all(all(row) for row in rows)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_padding_mask_of_any_dtype(dtype):
    mask = masks.padding_mask(torch.tensor([[1, 0]]).to(dtype))
    assert mask.tolist() == [[[[True, False]]]]


def test_no_attention_mask_is_no_mask():
    assert masks.padding_mask(None) is None


@given(queries=sizes, past=st.integers(0, 5))
def test_causal_mask(queries, past):
    mask = masks.causal_mask(queries, past + queries, CPU)
    for t in range(queries):
        for s in range(past + queries):
            assert allowed(mask, 0, t, s) == (s <= past + t)  # query t stands at position past + t
    assert (mask is None) == (queries == 1)


@given(queries=sizes, past=st.integers(0, 5), window=st.integers(1, 12))
def test_causal_mask_with_a_window(queries, past, window):
    mask = masks.causal_mask(queries, past + queries, CPU, window)
    for t in range(queries):
        for s in range(past + queries):
            assert allowed(mask, 0, t, s) == (past + t - window < s <= past + t)
    assert (mask is None) == (queries == 1 and window >= past + 1)


@given(rows=attention_masks, past=st.integers(0, 5), window=st.none() | st.integers(1, 7))
def test_a_window_over_padded_texts(rows, past, window):
    keys = len(rows[0])
    past = min(past, keys - 1)
    sizes = {"queries": keys - past, "past": past, "device": CPU}
    mask = masks.self_attention_mask(torch.tensor(rows), causal=True, window=window, **sizes)
    for b, row in enumerate(rows):
        for t in range(keys - past):
            for s in range(keys):
                near = window is None or s > past + t - window
                assert allowed(mask, b, t, s) == (row[s] == 1 and s <= past + t and near)


@given(rows=attention_masks, past=st.integers(0, 5), causal=st.booleans(), masked=st.booleans())
def test_self_attention_mask(rows, past, causal, masked):
    keys = len(rows[0])
    past = min(past, keys - 1)
    attention_mask = torch.tensor(rows) if masked else None
    mask = masks.self_attention_mask(attention_mask, causal=causal, queries=keys - past, past=past, device=CPU)
    for b, row in enumerate(rows):
        for t in range(keys - past):
            for s in range(keys):
                visible = (row[s] == 1 or not masked) and (s <= past + t or not causal)
                assert allowed(mask, b, t, s) == visible


def test_both():
    first = torch.tensor([True, True, False, False]).view(1, 1, 2, 2)
    second = torch.tensor([True, False]).view(1, 1, 1, 2)
    assert masks.both(first, second).flatten().tolist() == [True, False, False, False]
    assert masks.both(first, None) is first
    assert masks.both(None, second) is second
    assert masks.both(None, None) is None


def drawings(function):
    """The drawings of a docstring, from left to right, as lists of rows of booleans."""
    columns = {}  # where a row begins in its line -> the rows that begin there
    for line in inspect.getdoc(function).splitlines():
        for row in re.finditer(r"(?<!\S)[x.](?: [x.])+(?!\S)", line):
            columns.setdefault(row.start(), []).append([cell == "x" for cell in row[0].split()])
    return [columns[begin] for begin in sorted(columns)]


def test_drawings():
    (padding,) = drawings(masks.padding_mask)
    assert padding == masks.padding_mask(torch.tensor([[1, 1, 1, 0]]))[0, 0].tolist()
    left, cached = drawings(masks.causal_mask)
    assert left[:4] == masks.causal_mask(4, 4, CPU)[0, 0].tolist()
    assert left[4:] == masks.causal_mask(4, 4, CPU, window=2)[0, 0].tolist()
    assert cached == masks.causal_mask(2, 4, CPU)[0, 0].tolist()
    (left_padded,) = drawings(masks.both)
    padding = masks.padding_mask(torch.tensor([[0, 1, 1, 1]]))
    assert left_padded == masks.both(masks.causal_mask(4, 4, CPU), padding)[0, 0].tolist()


@pytest.mark.parametrize("shape", [(2, 4), (1, 5), (3, 5), (10,), (2, 1, 1, 5), (2, 5, 5)])
def test_check_attention_mask_refuses_other_shapes(shape):
    with pytest.raises(InputError, match=r"decoder_attention_mask: got shape \[.*\], expected \[2, 5\]"):
        masks.check_attention_mask("decoder_attention_mask", torch.ones(shape), batch=2, keys=5)


def test_check_attention_mask_takes_none_and_the_right_shape():
    masks.check_attention_mask("attention_mask", None, batch=2, keys=5)
    masks.check_attention_mask("attention_mask", torch.ones(2, 5), batch=2, keys=5)
