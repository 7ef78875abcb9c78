"""Each formula, in both books, against one that is not ours: numpy in float64, scipy, torch's reference, the paper."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch.autograd import gradcheck

from minitransformer.ops import BOOKS

pytestmark = pytest.mark.parametrize("book", BOOKS.values(), ids=BOOKS)
F = torch.nn.functional


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_near(got, expected, tolerance=1e-12):
    np.testing.assert_allclose(got.detach().numpy(), np.asarray(expected), rtol=tolerance, atol=tolerance)


def paper_attention(q, k, v, mask, bias, scale):
    """Equation 1, one query after the other, over the list of keys that it may attend to."""
    z = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, h, t in np.ndindex(*q.shape[:3]):
        keys = [s for s in range(k.shape[2]) if mask[b, h, t, s]]
        scores = np.array([sum(q[b, h, t] * k[b, h, s]) * scale + bias[0, h, t, s] for s in keys])
        if keys:
            weights = np.exp(scores) / sum(np.exp(scores))
            z[b, h, t] = sum(w * v[b, h, s] for w, s in zip(weights, keys, strict=True))
    return z


def test_attention(book):
    q, k, v, bias = (
        normal(2, 2, 3, 4),
        normal(2, 2, 5, 4, seed=1),
        normal(2, 2, 5, 4, seed=2),
        normal(1, 2, 3, 5, seed=3),
    )
    mask = torch.rand(2, 1, 3, 5) < 0.6
    mask[1, 0, 2] = False
    expected = paper_attention(q.numpy(), k.numpy(), v.numpy(), mask.expand(2, 2, 3, 5).numpy(), bias.numpy(), 0.3)
    assert_near(book.attention(q, k, v, mask=mask, bias=bias, scale=0.3), expected)
    assert (expected[1, :, 2] == 0).all()


def test_attention_scores_and_weights(book):
    q, k, bias = normal(2, 2, 3, 4), normal(2, 2, 5, 4, seed=1), normal(1, 2, 3, 5, seed=3)
    scores = np.einsum("bhte,bhse->bhts", q.numpy(), k.numpy()) * 0.3
    assert_near(book.attention_scores(q, k, scale=0.3), scores)
    assert_near(book.attention_scores(q, k, scale=0.3, bias=bias), scores + bias.numpy())
    mask = torch.ones(3, 5, dtype=torch.bool).tril(1)
    expected = scipy.special.softmax(np.where(mask.numpy(), scores, -np.inf), axis=-1)
    assert_near(book.attention_weights(torch.from_numpy(scores), mask), expected)


def test_attention_is_torchs_own(book):
    q, k, v = normal(2, 2, 3, 4), normal(2, 2, 5, 4, seed=1), normal(2, 2, 5, 4, seed=2)
    mask = torch.ones(3, 5, dtype=torch.bool).tril(2)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
    assert_near(book.attention(q, k, v, mask=mask, scale=0.3), expected)


@pytest.mark.parametrize(
    "x", [normal(3, 5) * 10, normal(7), normal(2, 1), torch.tensor([-1e4, 0, 1e4, -math.inf]).double()]
)
def test_softmax(book, x):
    assert_near(book.softmax(x), scipy.special.softmax(x.numpy(), axis=-1))


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 1), (7,)])
def test_layer_norm(book, shape):
    x, weight, bias = normal(*shape) * 2 + 3, normal(shape[-1], seed=1), normal(shape[-1], seed=2)
    mean, variance = x.numpy().mean(-1, keepdims=True), x.numpy().var(-1, keepdims=True, ddof=0)
    expected = (x.numpy() - mean) / np.sqrt(variance + 1e-5) * weight.numpy() + bias.numpy()
    assert_near(book.layer_norm(x, weight, bias, 1e-5), expected, 1e-11)
    assert_near(book.layer_norm(x, weight, bias, 1e-5), F.layer_norm(x, shape[-1:], weight, bias, 1e-5), 1e-11)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 1), (7,)])
def test_rms_norm(book, shape):
    x, weight = normal(*shape) * 2 + 3, normal(shape[-1], seed=1)
    expected = x.numpy() / np.sqrt((x.numpy() ** 2).sum(-1, keepdims=True) / shape[-1] + 1e-5) * weight.numpy()
    assert_near(book.rms_norm(x, weight, 1e-5), expected)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6), (torch.bfloat16, 0.02)], ids=str
)
def test_rms_norm_is_torchs_own(book, dtype, tolerance):
    x = (normal(4, 6) * 5 + 1).to(dtype).requires_grad_()
    norm = torch.nn.RMSNorm(6, eps=0.1, dtype=dtype)
    norm.load_state_dict({"weight": normal(6, seed=1).to(dtype)})
    results = []
    for function in (norm, lambda x: book.rms_norm(x, norm.weight, 0.1)):
        y = function(x)
        gradients = torch.autograd.grad(y.square().sum(), [x, norm.weight])
        results.append([y.detach(), *gradients])
    for got, expected in zip(*reversed(results), strict=True):
        assert got.dtype == dtype
        scale = float(expected.abs().max())
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance * scale)


def test_rms_norm_of_half_precision_squares_in_float32(book):
    """300² is more than float16 can hold."""
    x = torch.tensor([[300.0, -300.0]], dtype=torch.float16)
    assert book.rms_norm(x, torch.ones(2, dtype=torch.float16), 1e-6).tolist() == [[1, -1]]


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_attention_of_groups_of_heads_is_torchs_own(book, groups):
    q, k, v = normal(2, 6, 3, 4), normal(2, groups, 5, 4, seed=1), normal(2, groups, 5, 4, seed=2)
    mask = torch.ones(3, 5, dtype=torch.bool).tril(2)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)
    assert_near(book.attention(q, k, v, mask=mask, scale=0.3), expected)


def test_a_group_of_one_head_is_not_copied(book):
    x = normal(2, 6, 3, 4)
    assert book.for_each_query_head(x, 6) is x


@pytest.mark.parametrize(("height", "width", "patch"), [(6, 9, (2, 3)), (7, 8, (2, 3)), (5, 5, (5, 5)), (4, 3, (1, 2))])
def test_patches_are_a_convolution(book, height, width, patch):
    """Rectangles, with pixels left over at the right and below: row by row, the first row first."""
    images, weight, bias = normal(2, 3, height, width), normal(4, 3, *patch, seed=1), normal(4, seed=2)
    convolution = torch.nn.Conv2d(3, 4, patch, stride=patch, dtype=torch.float64)
    convolution.load_state_dict({"weight": weight, "bias": bias})
    got = book.patches(images, weight, bias)
    assert got.shape == (2, (height // patch[0]) * (width // patch[1]), 4)
    assert_near(got, convolution(images).detach().flatten(2).transpose(1, 2))


X = torch.linspace(-6, 6, 101, dtype=torch.float64)
ACTIVATIONS = {
    "relu": np.maximum(X.numpy(), 0),
    "gelu": X.numpy() * scipy.stats.norm.cdf(X.numpy()),
    "gelu_tanh": X.numpy() / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (X.numpy() + 0.044715 * X.numpy() ** 3))),
    "silu": X.numpy() * scipy.special.expit(X.numpy()),
    "tanh": np.tanh(X.numpy()),
}
# Published implementations' values in float32 at -3, -1, -½, ½, 1, 3.
AT_SIX_POINTS = {
    "gelu": [-0.0040499, -0.1586553, -0.1542688, 0.3457312, 0.8413447, 2.9959502],
    "gelu_tanh": [-0.0036374, -0.1588080, -0.1542860, 0.3457140, 0.8411920, 2.9963627],
    "silu": [-0.1422776, -0.2689414, -0.1887703, 0.3112297, 0.7310586, 2.8577225],
    "relu": [0, 0, 0, 0.5, 1, 3],
    "tanh": [-0.9950548, -0.7615942, -0.4621172, 0.4621172, 0.7615942, 0.9950548],
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(book, name):
    assert_near(getattr(book, name)(X), ACTIVATIONS[name])
    six = torch.tensor([-3, -1, -0.5, 0.5, 1, 3], dtype=torch.float64)
    np.testing.assert_allclose(getattr(book, name)(six), AT_SIX_POINTS[name], rtol=0, atol=3e-7)


def test_the_two_gelus_differ_as_documented(book):
    difference = (book.gelu(X) - book.gelu_tanh(X)).abs().max()
    assert 4.6e-4 < difference < 4.8e-4


@pytest.mark.parametrize("width", [1, 2, 5, 8, 64])
def test_sinusoidal(book, width):
    positions = torch.tensor([[0, 1, 2, 511, 100_000]])
    expected = np.zeros((1, 5, width))
    for n, p in enumerate(positions[0].tolist()):
        for column in range(width):
            angle = p / 10000 ** (2 * (column // 2) / width)
            expected[0, n, column] = math.cos(angle) if column % 2 else math.sin(angle)
    assert_near(book.sinusoidal(positions, width), expected, 1e-10)


def test_cross_entropy(book):
    logits, labels = normal(6, 5) * 3, torch.tensor([0, 4, -100, 2, 2, -100])
    kept = labels.numpy() >= 0
    log_probabilities = scipy.special.log_softmax(logits.numpy(), axis=-1)
    expected = -log_probabilities[kept, labels.numpy()[kept]].sum()
    total, count = book.cross_entropy(logits, labels)
    assert_near(total, expected)
    assert count == 4
    assert_near(total / count, F.cross_entropy(logits, labels))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2, 1, 3, 0.1], dtype=torch.float64)])
def test_cross_entropy_with_weights_and_smoothed_labels(book, weights, label_smoothing):
    """The mean is torch's; by hand, of the definition: the label with 1 - ε, and each class with ε / V besides."""
    logits, labels = normal(6, 5) * 3, torch.tensor([0, 4, -100, 2, 2, -100])
    total, count = book.cross_entropy(logits, labels, weights=weights, label_smoothing=label_smoothing)
    assert_near(total / count, F.cross_entropy(logits, labels, weights, label_smoothing=label_smoothing))
    weight = torch.ones(5) if weights is None else weights
    assert_near(count, sum(weight[label].item() for label in labels if label >= 0))
    probabilities = F.one_hot(labels.clamp(min=0), 5).double() * (1 - label_smoothing) + label_smoothing / 5
    losses = -(probabilities * weight * logits.log_softmax(-1)).sum(-1)
    assert_near(total, losses[labels >= 0].sum())


def test_cross_entropy_of_huge_logits_is_finite(book):
    total, count = book.cross_entropy(torch.tensor([[1e30, -1e30], [1e30, -1e30]]), torch.tensor([0, 0]))
    assert (total, count) == (0, 2)


@pytest.mark.parametrize("labels", [torch.tensor([-100, -100]), torch.zeros(0, dtype=torch.int64)])
def test_cross_entropy_of_nothing_is_zero_of_zero(book, labels):
    logits = normal(len(labels), 5).requires_grad_()
    total, count = book.cross_entropy(logits, labels)
    assert (total, count) == (0, 0)
    total.backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.003, 0.1, 0.5])
def test_drop_zeroes_a_share_of_p_and_keeps_the_mean(book, p, dtype):
    n = 400_000
    dropped = book.drop(torch.full((n,), 2.0, dtype=dtype), p).double()
    five_sigma = 5 * math.sqrt(p * (1 - p) / n)
    assert abs((dropped == 0).double().mean() - p) < five_sigma + 2**-17
    kept = dropped[dropped != 0]
    assert kept.min() == kept.max()
    assert abs(kept[0] - 2 / (1 - p)) < (4e-5 if dtype == torch.float32 else 1e-2)  # p may be rounded to 2⁻¹⁶


def test_drop_of_almost_all(book):
    assert torch.isfinite(book.drop(torch.ones(1000), 1 - 1e-6)).all()


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 0), (7, 1, 3)])
def test_drop_of_any_shape(book, shape):
    x = torch.ones(shape)
    for _ in range(20):
        dropped = book.drop(x, 0.5)
        assert dropped.shape == x.shape
        assert ((dropped == 0) | (dropped == 2)).all()


def test_drop_decides_about_each_number_alone(book):
    """Of four numbers that share a draw of bits, two are dropped together as often as any two are."""
    dropped = book.drop(torch.ones(100_000, 4), 0.3) == 0
    for i in range(3):
        both = (dropped[:, i] & dropped[:, i + 1]).double().mean()
        assert abs(both - 0.09) < 5 * math.sqrt(0.09 * 0.91 / 100_000)


def test_drop_follows_the_seed(book):
    x = torch.ones(100)
    first, second = book.drop(x, 0.5), book.drop(x, 0.5)
    torch.manual_seed(0)
    again = book.drop(x, 0.5)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_drop_at_its_ends(book):
    x = normal(3, 4)
    assert book.drop(x, 0.0) is x
    assert torch.equal(book.drop(x, 1.0), torch.zeros(3, 4, dtype=torch.float64))


def test_attention_drops_weights_not_values(book):
    """With one key its weight is 1: a query's row is dropped whole, or is v / (1 - p) whole."""
    q, k, v = normal(1, 1, 1000, 4), normal(1, 1, 1, 4), torch.ones(1, 1, 1, 4).double()
    z = book.attention(q, k, v, scale=1.0, dropout=0.25)[0, 0]
    assert set(z.flatten().tolist()) == {0.0, 1 / 0.75}
    assert torch.equal(z.amin(-1), z.amax(-1))
    assert 0.65 < (z[:, 0] > 0).double().mean() < 0.85


GRADIENTS = {
    "attention": lambda book, mask: lambda q, k, v, b: book.attention(q, k, v, mask=mask, bias=b, scale=0.7),
    "layer_norm": lambda book, mask: lambda x, w, b: book.layer_norm(x, w, b, 1e-3),
    "rms_norm": lambda book, mask: lambda x, w: book.rms_norm(x, w, 1e-3),
    "softmax": lambda book, mask: book.softmax,
    "gelu": lambda book, mask: book.gelu,
    "gelu_tanh": lambda book, mask: book.gelu_tanh,
    "silu": lambda book, mask: book.silu,
    "relu": lambda book, mask: book.relu,
    "tanh": lambda book, mask: book.tanh,
    "patches": lambda book, mask: book.patches,
    "rotary": lambda book, mask: lambda x: book.rotary(x, *book.rotary_table(torch.tensor([[0, 5, 40]]), 4, 100.0)),
    "grouped attention": lambda book, mask: lambda q, k, v: book.attention(q, k, v, mask=mask, scale=0.7),
    "cross_entropy": lambda book, mask: lambda x: book.cross_entropy(x, torch.tensor([1, -100, 0]))[0],
}
SHAPES = {
    "attention": [(1, 2, 3, 2), (1, 2, 4, 2), (1, 2, 4, 2), (1, 2, 3, 4)],
    "layer_norm": [(3, 4), (4,), (4,)],
    "rms_norm": [(3, 4), (4,)],
    "patches": [(1, 2, 5, 4), (3, 2, 2, 3), (3,)],
    "rotary": [(1, 2, 3, 4)],
    "grouped attention": [(1, 4, 3, 2), (1, 2, 4, 2), (1, 2, 4, 2)],
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_the_slopes(book, name):
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 1, 1]]).bool()
    inputs = [normal(*shape, seed=i).requires_grad_() for i, shape in enumerate(SHAPES.get(name, [(3, 4)]))]
    assert gradcheck(GRADIENTS[name](book, mask), inputs, atol=1e-7)
