"""The boxes of the paper's figure 1, one by one, against torch's own modules and numpy."""

import dataclasses

import numpy as np
import pytest
import torch
from small_boxes import EMBED, IDS, STACK, assert_near, books, noisy
from torch import nn

from minitransformer.modules import AddNorm, FeedForward, KVCache, LayerNorm, MultiHeadAttention, TokenEmbedding
from minitransformer.ops import BOOKS


@books
@pytest.mark.parametrize("cross", [False, True])
def test_multi_head_attention_is_torchs(cross, book):
    ours = noisy(MultiHeadAttention(STACK), book)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.load_state_dict(ours.o.state_dict())
    x = torch.randn(2, 4, 12).double()
    y = torch.randn(2, 6, 12).double() if cross else x
    mask = torch.rand(2, 1, 4, y.shape[1]) < 0.7
    mask[..., 0] = True  # torch's own gives NaN for a query that sees nothing
    expected, _ = theirs(x, y, y, attn_mask=~mask.repeat(1, 3, 1, 1).flatten(0, 1), need_weights=False)
    assert_near(ours(x, y if cross else None, mask=mask), expected)


@books
def test_score_scale(book):
    """None is 1/√E; a factor c on the scale is a factor c on the queries."""
    plain, scaled = (
        noisy(MultiHeadAttention(dataclasses.replace(STACK, score_scale=scale)), book) for scale in (None, 0.25)
    )
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        plain.q.weight.mul_(0.25 * 2)  # √4 = 2
        plain.q.bias.mul_(0.25 * 2)
    x = torch.randn(2, 5, 12).double()
    assert_near(plain(x), scaled(x))


def test_heads_own_neighbouring_columns():
    attention, x = MultiHeadAttention(STACK), torch.arange(24.0).view(1, 2, 12)
    heads = attention.split_heads(x)
    assert heads.shape == (1, 3, 2, 4)
    assert heads[0, 1].tolist() == [[4, 5, 6, 7], [16, 17, 18, 19]]
    assert torch.equal(attention.merge_heads(heads), x)


@books
@pytest.mark.parametrize(
    ("activation", "theirs"),
    {"relu": nn.ReLU(), "gelu": nn.GELU(), "gelu_tanh": nn.GELU(approximate="tanh"), "silu": nn.SiLU()}.items(),
)
def test_feed_forward(activation, theirs, book):
    ours = noisy(FeedForward(dataclasses.replace(STACK, activation=activation)), book)
    x = torch.randn(2, 5, 12).double()
    assert_near(ours(x), theirs(x @ ours.up.weight.T + ours.up.bias) @ ours.down.weight.T + ours.down.bias)


@books
def test_layer_norm(book):
    ours, theirs = noisy(LayerNorm(12, 0.1), book), nn.LayerNorm(12, eps=0.1, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 12).double()
    assert_near(ours(x), theirs(x))


def test_a_new_layer_norm_is_the_identity_on_normal_vectors():
    x = torch.tensor([[-1.0, 1.0]])
    assert_near(LayerNorm(2, 1e-12)(x).double(), x.double())


def test_add_norm_in_both_orders():
    x, norm, double = torch.randn(2, 5, 12).double(), noisy(LayerNorm(12, 0.1), BOOKS["fused"]), lambda h: 2 * h
    assert_near(AddNorm("post")(x, norm, double), norm(x + 2 * x))
    assert_near(AddNorm("pre")(x, norm, double), x + 2 * norm(x))


def only(part, bias):
    """All weights of `part` 0 but the bias of its last matrix: what it gives is that bias, dropped or not."""
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.zero_()
        getattr(part, bias).bias.fill_(2.0)
    return part


@books
@pytest.mark.parametrize(
    ("box", "site", "bias"), [(MultiHeadAttention, "dropout", "o"), (FeedForward, "ffn_dropout", "down")]
)
def test_dropout_falls_on_what_a_sub_layer_gives(box, site, bias, book):
    """Each number by itself: 0, or itself / (1 - p). The other box's dropout does not act."""
    other = {"dropout": "ffn_dropout", "ffn_dropout": "dropout"}[site]
    part = only(noisy(box(dataclasses.replace(STACK, **{site: 0.5, other: 0.9})), book), bias).train()
    dropped = part(torch.randn(10, 50, 12).double())
    assert set(dropped.flatten().tolist()) == {0.0, 4.0}
    assert 0.45 < (dropped == 0).double().mean() < 0.55
    shares = (dropped == 0).double().mean(-1)
    assert ((shares > 0) & (shares < 1)).double().mean() > 0.9  # not whole rows
    assert set(part.eval()(torch.randn(2, 5, 12).double()).flatten().tolist()) == {2.0}


@books
@pytest.mark.parametrize("gated", [False, True])
def test_activation_dropout_falls_on_the_inner_vector(gated, book):
    width = {"d_model": 1, "heads": 1, "d_ffn": 1}
    config = dataclasses.replace(STACK, activation_dropout=0.5, gated=gated, activation="tanh", **width)
    part = noisy(FeedForward(config), book).train()
    x = torch.full((1, 400, 1), 3.0).double()
    dropped, whole = part(x) - part.down.bias, part.eval()(x) - part.down.bias
    assert 0.4 < (dropped == 0).double().mean() < 0.6
    assert_near(dropped[dropped != 0], 2 * whole[dropped != 0])


def embed(book, **fields):
    return noisy(TokenEmbedding(dataclasses.replace(EMBED, **fields)), book)


@books
def test_token_embedding(book):
    module = embed(book, token_types="learned", type_vocab_size=2, norm_eps=0.1, scale=3.0)
    tokens, positions, types = (
        part.weight.detach().numpy() for part in (module.tokens, module.positions, module.types)
    )
    type_ids, position_ids = np.array([[0, 1, 1], [1, 0, 0]]), np.array([[8, 0, 3], [2, 2, 2]])
    x = tokens[IDS] * 3 + types[type_ids] + positions[position_ids]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.1)
    expected = x * module.norm.weight.detach().numpy() + module.norm.bias.detach().numpy()
    assert_near(module(IDS, torch.tensor(type_ids), torch.tensor(position_ids)), expected)


def test_types_and_positions_have_defaults():
    module = embed(BOOKS["fused"], token_types="learned", type_vocab_size=2)
    zeros, places = torch.zeros(2, 3, dtype=torch.int64), torch.tensor([[0, 1, 2]])
    assert torch.equal(module(IDS), module(IDS, zeros, places))
    assert torch.equal(module(IDS, past=4), module(IDS, zeros, places + 4))
    assert not torch.equal(module(IDS), module(IDS, zeros + 1, places))


def test_types_from_the_token_table():
    module = embed(BOOKS["fused"], token_types="tokens")
    assert_near(module(IDS, torch.full((2, 3), 7)), module(IDS) + module.tokens.weight[7])


@books
@pytest.mark.parametrize("width", [7, 8])
def test_sinusoids_are_added(width, book):
    module = embed(book, d_model=width, positions="sinusoidal", max_positions=None, scale=width**0.5)
    angles = np.array([[p / 10000 ** (2 * (c // 2) / width) for c in range(width)] for p in range(100, 103)])
    sinusoids = np.where(np.arange(width) % 2, np.cos(angles), np.sin(angles))
    expected = module.tokens.weight.detach().numpy()[IDS] * np.sqrt(width) + sinusoids
    assert_near(module(IDS, past=100), expected)
    assert [name for name, _ in module.named_parameters()] == ["tokens.weight"]


def test_int32_ids_give_the_same():
    module = embed(BOOKS["fused"])
    assert torch.equal(module(IDS), module(IDS.int()))


def test_dropout_of_embeddings_only_while_training():
    module = embed(BOOKS["fused"], dropout=0.5)
    assert torch.equal(module(IDS), module(IDS))
    assert 0 < (module.train()(IDS) == 0).double().mean() < 1


def test_cache_appends_behind():
    cache = KVCache.empty(layers=2)
    assert cache.length == 0
    first, second = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 1, 4)
    cache.self_attn[0].append(first, first + 1)
    k, v = cache.self_attn[0].append(second, second + 1)
    assert torch.equal(k, torch.cat([first, second], 2))
    assert torch.equal(v, k + 1)
    assert torch.equal(cache.self_attn[0].k, k)
    assert torch.equal(cache.self_attn[0].v, v)
    assert k.data_ptr() == cache.self_attn[0].keys.data_ptr()  # a view of what is kept, no copy
    assert cache.length == cache.self_attn[0].length == 4
    assert cache.self_attn[1].k is None
