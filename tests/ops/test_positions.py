"""Formulas of positions against those of transformers, in both books."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.t5.modeling_t5 import T5Attention

from minitransformer.ops import BOOKS

pytestmark = pytest.mark.parametrize("book", BOOKS.values(), ids=BOOKS)
PLACES = torch.cat([torch.arange(2050), torch.tensor([32_767, 100_000, 1_000_003])])[None]


def llama_rotary(theta, d_head):
    config = LlamaConfig(
        hidden_size=2 * d_head,
        num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    return LlamaRotaryEmbedding(config)


@pytest.mark.parametrize(("theta", "d_head"), [(10_000.0, 64), (500_000.0, 128), (1_000_000.0, 10), (7.0, 2)])
def test_rotary_table_is_llamas_bit_for_bit(book, theta, d_head):
    cos, sin = llama_rotary(theta, d_head)(torch.zeros(1), PLACES)
    ours = book.rotary_table(PLACES, d_head, theta)
    assert torch.equal(ours[0], cos)
    assert torch.equal(ours[1], sin)
    assert ours[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_rotary_is_llamas_bit_for_bit(book, dtype):
    q, k = torch.randn(2, 3, PLACES.shape[1], 10).to(dtype), torch.randn(2, 1, PLACES.shape[1], 10).to(dtype)
    cos, sin = llama_rotary(10_000.0, 10)(q, PLACES)
    expected = apply_rotary_pos_emb(q, k, cos, sin)
    ours = [table.to(dtype) for table in book.rotary_table(PLACES, 10, 10_000.0)]
    for x, theirs in zip((q, k), expected, strict=True):
        assert torch.equal(book.rotary(x, *ours), theirs)


def test_each_text_has_its_own_positions(book):
    places, x = torch.tensor([[0, 1, 2], [5, 5, 9]]), torch.randn(2, 3, 3, 6)
    turned = book.rotary(x, *book.rotary_table(places, 6, 100.0))
    for row in range(2):
        alone = book.rotary(x[row : row + 1], *book.rotary_table(places[row : row + 1], 6, 100.0))
        assert torch.equal(turned[row : row + 1], alone)
    assert torch.equal(turned[0, :, 0], x[0, :, 0])  # position 0 is no turn


def test_turned_vectors_score_by_their_distance_alone(book):
    q, k = torch.randn(1, 1, 1, 8).double(), torch.randn(1, 1, 1, 8).double()

    def score(query_at, key_at):
        tables = [book.rotary_table(torch.tensor([[at]]), 8, 100.0) for at in (query_at, key_at)]
        q_turned, k_turned = (book.rotary(x, *table) for x, table in zip((q, k), tables, strict=True))
        return float((q_turned * k_turned).sum())

    assert score(7, 4) == pytest.approx(score(3, 0), abs=1e-5)
    assert score(7, 4) != pytest.approx(score(4, 7), abs=1e-3)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(
    ("buckets", "max_distance"), [(32, 128), (8, 20), (32, 64), (4, 3), (16, 1000), (7, 50), (64, 128), (6, 4)]
)
def test_relative_buckets_are_t5s(book, buckets, max_distance, bidirectional):
    distances = torch.arange(-300, 301)[None]
    expected = T5Attention._relative_position_bucket(distances, bidirectional, buckets, max_distance)
    assert torch.equal(book.relative_buckets(distances, buckets, max_distance, bidirectional), expected)


# distance -> T5's bucket in an encoder and in a decoder, with 32 buckets up to a distance of 128
BUCKETS = {
    -200: (15, 31), -128: (15, 31), -127: (15, 31), -64: (14, 26), -33: (12, 21), -32: (12, 21), -20: (10, 17),
    -17: (10, 16), -16: (10, 16), -15: (9, 15), -9: (8, 9), -8: (8, 8), -7: (7, 7), -1: (1, 1), 0: (0, 0), 1: (17, 0),
    7: (23, 0), 8: (24, 0), 11: (24, 0), 12: (25, 0), 15: (25, 0), 16: (26, 0), 22: (26, 0), 23: (27, 0), 32: (28, 0),
    45: (28, 0), 46: (29, 0), 64: (30, 0), 90: (30, 0), 91: (31, 0), 127: (31, 0), 200: (31, 0),
}  # fmt: skip


def test_relative_buckets_of_some_distances(book):
    distances = torch.tensor(list(BUCKETS))[None]
    both = [book.relative_buckets(distances, 32, 128, bidirectional)[0].tolist() for bidirectional in (True, False)]
    assert dict(zip(BUCKETS, zip(*both, strict=True), strict=True)) == BUCKETS


@pytest.mark.parametrize("width", [2, 8, 64, 7])
def test_sinusoidal_halves_are_marians(book, width):
    theirs = MarianSinusoidalPositionalEmbedding(600, width)
    theirs.weight.data = theirs.create_weight()
    expected = theirs(torch.Size((1, 600)))
    assert torch.equal(book.sinusoidal_halves(torch.arange(600), width).float(), expected)
