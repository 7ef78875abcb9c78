"""The two books hold the same functions, and these give the same numbers: forward, and gradient of every input."""

import inspect
import math
from dataclasses import fields

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minitransformer.ops import BOOKS, Book, by_hand, fused

# A few roundings of each dtype, as a part of the tensor's largest number.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
MASKS = ("none", "padding", "causal", "padding and causal", "all padding", "random")
BIASES = ("none", "one for all texts", "with -inf")


def public(page):
    own = {name: x for name, x in vars(page).items() if inspect.isfunction(x) and not name.startswith("_")}
    return {name: x for name, x in own.items() if x.__module__.startswith("minitransformer.ops")}


def run(function, inputs):
    """The function's output and the gradients of all its inputs, for one fixed random loss."""
    inputs = [x.clone().requires_grad_() if x is not None and x.is_floating_point() else x for x in inputs]
    output = function(*inputs)
    generator = torch.Generator().manual_seed(7)
    output.backward(torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype))
    return [output.detach(), *(x.grad for x in inputs if x is not None and x.requires_grad)]


def assert_books_equal(function_of, inputs):
    """`function_of(book)` gives the same output and the same gradients with each of the two books."""
    results = [run(function_of(book), inputs) for book in BOOKS.values()]
    for one, other in zip(*results, strict=True):
        assert one.isfinite().all()
        largest = max(1.0, float(one.abs().max()))
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE[one.dtype] * largest)
    return results[0]


def normal(*shape, dtype, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def make_mask(kind, batch, queries, keys):
    keep = torch.ones(batch, 1, 1, keys, dtype=torch.bool)
    if "padding" in kind:
        keep[0, ..., 0 if kind == "all padding" else max(1, keys - 1) :] = False
    if "causal" in kind:
        keep = keep & torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    if kind == "random":
        keep = torch.rand(batch, 1, queries, keys, generator=torch.Generator().manual_seed(3)) < 0.5
    return None if kind == "none" else keep


def make_bias(kind, heads, queries, keys, dtype):
    if kind == "none":
        return None
    bias = normal(1, heads, queries, keys, dtype=dtype, seed=4)
    if kind == "with -inf":
        bias[:, :, 0] = -math.inf  # the first query may look at nothing
        bias[..., -1] = -math.inf
    return bias


def test_both_books_have_the_same_functions_with_the_same_signatures():
    assert set(public(by_hand)) == set(public(fused)) == {field.name for field in fields(Book)}
    for name, function in public(by_hand).items():
        assert inspect.signature(function) == inspect.signature(getattr(fused, name)), name
        assert function.__doc__
        assert getattr(fused, name).__doc__


def test_the_books_are_the_two_pages():
    for name, page in {"fused": fused, "by_hand": by_hand}.items():
        assert {field.name: getattr(BOOKS[name], field.name) for field in fields(Book)} == public(page)


@DTYPES
@pytest.mark.parametrize("bias_kind", BIASES)
@pytest.mark.parametrize("mask_kind", MASKS)
@given(sizes=st.tuples(*(st.integers(1, 9) for _ in range(5))))
@example(sizes=(2, 3, 5, 7, 4))
@settings(max_examples=5)
def test_attention(mask_kind, bias_kind, dtype, sizes):
    batch, heads, queries, keys, width = sizes
    inputs = [normal(batch, heads, n, width, dtype=dtype, seed=i) for i, n in enumerate((queries, keys, keys))]
    bias = make_bias(bias_kind, heads, queries, keys, dtype)
    mask = make_mask(mask_kind, batch, queries, keys)
    assert_books_equal(
        lambda book: lambda q, k, v, bias: book.attention(q, k, v, mask=mask, bias=bias, scale=0.3),
        [*inputs, bias],
    )


@DTYPES
@pytest.mark.parametrize("mask_kind", MASKS)
@given(groups=st.integers(1, 3), group=st.integers(1, 3), queries=st.integers(1, 5), keys=st.integers(1, 5))
@example(groups=2, group=3, queries=4, keys=5)
@settings(max_examples=5)
def test_attention_of_groups_of_heads(mask_kind, dtype, groups, group, queries, keys):
    q = normal(2, groups * group, queries, 4, dtype=dtype)
    k, v = (normal(2, groups, keys, 4, dtype=dtype, seed=seed) for seed in (1, 2))
    mask = make_mask(mask_kind, 2, queries, keys)
    assert_books_equal(lambda book: lambda q, k, v: book.attention(q, k, v, mask=mask, scale=0.3), [q, k, v])


@DTYPES
@pytest.mark.parametrize("mask_kind", MASKS)
def test_attention_weights(mask_kind, dtype):
    mask = make_mask(mask_kind, 2, 5, 7)
    scores = normal(2, 3, 5, 7, dtype=dtype)
    weights, _ = assert_books_equal(lambda book: lambda x: book.attention_weights(x, mask), [scores])
    seen = torch.ones(2, 3, 5, 7, dtype=torch.bool) if mask is None else mask.expand(2, 3, 5, 7)
    assert (weights[~seen] == 0).all()
    total = seen.any(-1).to(dtype)  # a query that sees nothing has weights of 0
    torch.testing.assert_close(weights.sum(-1), total, rtol=0, atol=TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("page", [by_hand, fused])
def test_a_row_of_nothing_but_minus_infinity_has_zero_weights_and_gradients(page, dtype):
    x = torch.full((2, 3), -math.inf, dtype=dtype)
    weights, gradient = run(lambda x: page.softmax(x) * 100, [x])
    assert (weights == 0).all()
    assert (gradient == 0).all()


@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize("mask_kind", ["none", "padding and causal"])
def test_attention_of_extreme_scores(mask_kind, size):
    q, k, v = (normal(1, 2, 4, 3, dtype=torch.float32, seed=i) for i in range(3))
    mask = make_mask(mask_kind, 1, 4, 4)
    one, other = (book.attention(q * size, k, v, mask=mask, scale=1.0) for book in BOOKS.values())
    assert one.isfinite().all()
    torch.testing.assert_close(one, other)


@DTYPES
@pytest.mark.parametrize("name", ["softmax", "relu", "gelu", "gelu_tanh", "silu", "tanh"])
@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=4), size=st.sampled_from([0.1, 1.0, 30.0]))
def test_functions_of_one_tensor(name, dtype, shape, size):
    assert_books_equal(lambda book: getattr(book, name), [normal(*shape, dtype=dtype) * size])


@DTYPES
@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_tanh", "silu", "tanh"])
def test_activations_at_zero_and_far_out(name, dtype):
    assert_books_equal(lambda book: getattr(book, name), [torch.tensor([0.0, -0.0, 80.0, -80.0], dtype=dtype)])


@DTYPES
@given(shape=st.lists(st.integers(1, 7), min_size=1, max_size=3), shift=st.sampled_from([0.0, 3.0]))
def test_norms(dtype, shape, shift):
    x = normal(*shape, dtype=dtype) + shift
    weight, bias = normal(shape[-1], dtype=dtype, seed=1) + 1, normal(shape[-1], dtype=dtype, seed=2)
    assert_books_equal(lambda book: lambda x, w, b: book.layer_norm(x, w, b, 0.1), [x, weight, bias])
    assert_books_equal(lambda book: lambda x, w: book.rms_norm(x, w, 0.1), [x, weight])


@DTYPES
@given(batch=st.integers(1, 3), channels=st.integers(1, 3), height=st.integers(3, 9), width=st.integers(4, 9))
@example(batch=2, channels=3, height=8, width=9)
@settings(max_examples=10)
def test_patches(dtype, batch, channels, height, width):
    images, weight = normal(batch, channels, height, width, dtype=dtype), normal(5, channels, 3, 4, dtype=dtype, seed=1)
    assert_books_equal(lambda book: book.patches, [images, weight, normal(5, dtype=dtype, seed=2)])


@DTYPES
@given(batch=st.integers(1, 3), heads=st.integers(1, 3), length=st.integers(1, 5), half=st.integers(1, 4))
def test_rotary(dtype, batch, heads, length, half):
    x, places = normal(batch, heads, length, 2 * half, dtype=dtype), torch.arange(length)[None] * 7
    tables = [book.rotary_table(places, 2 * half, 100.0) for book in BOOKS.values()]
    assert all(torch.equal(*both) for both in zip(*tables, strict=True))
    cos, sin = (table.to(dtype) for table in tables[0])
    assert_books_equal(lambda book: book.rotary, [x, cos, sin])


@given(keys=st.integers(1, 9), buckets=st.integers(4, 9), far=st.integers(5, 40), both_ways=st.booleans())
def test_relative_buckets(keys, buckets, far, both_ways):
    distances = torch.arange(keys) * 5 - torch.arange(keys)[:, None] * 3
    one, other = (book.relative_buckets(distances, buckets, far, both_ways) for book in BOOKS.values())
    assert torch.equal(one, other)
    assert one.dtype == torch.int64
    assert 0 <= one.min() <= one.max() < buckets


@DTYPES
@given(texts=st.integers(1, 9), vocab=st.integers(1, 9), ignored=st.integers(0, 9), index=st.sampled_from([-100, 0]))
def test_cross_entropy(dtype, texts, vocab, ignored, index):
    logits = normal(texts, vocab, dtype=dtype) * 3
    labels = torch.randint(vocab, (texts,), generator=torch.Generator().manual_seed(1))
    labels[:ignored] = index
    assert_books_equal(lambda book: lambda x: book.cross_entropy(x, labels, index)[0], [logits])
    for book in BOOKS.values():
        assert book.cross_entropy(logits, labels, ignore_index=index)[1] == (labels != index).sum()


@DTYPES
@given(shape=st.lists(st.integers(1, 9), min_size=1, max_size=2), width=st.integers(1, 9))
def test_sinusoidal(dtype, shape, width):
    positions = torch.randint(5000, shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    for name in ("sinusoidal", "sinusoidal_halves"):
        one, other = (getattr(book, name)(positions, width) for book in BOOKS.values())
        assert torch.equal(one, other)
        assert one.dtype == torch.float64
        assert one.shape == (*shape, width)
