"""What boxes of newer checkpoints have, against the modules of transformers and torch."""

import dataclasses

import pytest
import torch
from small_boxes import STACK, assert_near, books, give, noisy
from torch import nn
from transformers import LlamaConfig, Qwen3Config, T5Config
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RotaryEmbedding
from transformers.models.t5.modeling_t5 import T5Attention, T5DenseGatedActDense

from minitransformer.config import RelativePositionsConfig
from minitransformer.modules import NORMS, FeedForward, LayerNorm, MultiHeadAttention, RelativeBias, RMSNorm
from minitransformer.modules.cache import KeysAndValues


@books
def test_rms_norm(book):
    ours = noisy(RMSNorm(12, 0.1), book)
    theirs = give(nn.RMSNorm(12, eps=0.1), {"weight": ours.weight})
    x = torch.randn(2, 5, 12).double() * 3 + 1
    assert_near(ours(x), theirs(x))


def test_a_new_rms_norm_brings_the_mean_square_to_one():
    assert_near(RMSNorm(2, 1e-12)(torch.tensor([[3.0, -3.0]])), torch.tensor([[1.0, -1.0]]))
    assert {"layer": LayerNorm, "rms": RMSNorm} == NORMS


@books
@pytest.mark.parametrize("bias", [False, True])
def test_gated_feed_forward_is_llamas(bias, book):
    config = dataclasses.replace(STACK, gated=True, activation="silu", biases=("ffn",) if bias else ())
    ours = noisy(FeedForward(config), book)
    theirs = LlamaMLP(LlamaConfig(hidden_size=12, num_attention_heads=3, intermediate_size=20, mlp_bias=bias))
    weights = {name.replace(".", "_proj."): weight for name, weight in ours.state_dict().items()}
    x = torch.randn(2, 5, 12).double()
    assert_near(ours(x), give(theirs, weights)(x))


@books
def test_gated_feed_forward_is_t5s(book):
    ours = noisy(FeedForward(dataclasses.replace(STACK, gated=True, activation="gelu_tanh", biases=())), book)
    theirs = T5DenseGatedActDense(T5Config(d_model=12, d_ff=20, feed_forward_proj="gated-gelu"))
    parts = {"wi_0.weight": ours.gate.weight, "wi_1.weight": ours.up.weight, "wo.weight": ours.down.weight}
    x = torch.randn(2, 5, 12).double()
    assert_near(ours(x), give(theirs, parts)(x))


@pytest.mark.parametrize("biases", [(), ("qkv",), ("o",), ("ffn",), ("qkv", "o", "ffn")])
def test_only_the_named_projections_have_biases(biases):
    config = dataclasses.replace(STACK, biases=biases, gated=True)
    attention, ffn = MultiHeadAttention(config), FeedForward(config)
    found = {"qkv": (attention.q, attention.k, attention.v), "o": (attention.o,), "ffn": (ffn.gate, ffn.up, ffn.down)}
    for part, matrices in found.items():
        assert all((matrix.bias is not None) == (part in biases) for matrix in matrices)


@books
@pytest.mark.parametrize("biases", [(), ("qkv", "o")])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_is_qwens(kv_heads, biases, book):
    """Groups of heads, heads wider than d_model / H, norms on queries and keys, rotary positions."""
    config = dataclasses.replace(STACK, heads=4, head_width=6, kv_heads=kv_heads, qk_norm=True, biases=biases)
    ours = noisy(MultiHeadAttention(config), book)
    their_config = Qwen3Config(
        hidden_size=12,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=6,
        rms_norm_eps=1e-5,
        attention_bias=bool(biases),
        attn_implementation="sdpa",
    )
    names = {name: name.replace(".", "_proj.", 1) for name in ours.state_dict()}
    names |= {f"{part}_norm.weight": f"{part}_norm.weight" for part in "qk"}
    weights = {theirs: ours.state_dict()[name] for name, theirs in names.items()}
    theirs = Qwen3Attention(their_config, layer_idx=0)
    theirs.q_norm, theirs.k_norm = (nn.RMSNorm(6, eps=1e-5) for _ in "qk")  # their own computes in float32
    give(theirs, weights)
    x = torch.randn(2, 5, 12).double()
    rotation = Qwen3RotaryEmbedding(their_config)(x, torch.tensor([[0, 1, 2, 3, 4], [9, 0, 3, 30, 2]]))
    mask = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 1, 5, 5)
    expected, _ = theirs(x, rotation, mask)
    assert_near(ours(x, mask=mask, rotation=rotation), expected)


def test_a_cache_keeps_the_heads_of_the_keys_only():
    """And keys that are turned already, by their own positions."""
    attention = noisy(MultiHeadAttention(dataclasses.replace(STACK, heads=6, kv_heads=2)))
    cache, x = KeysAndValues(), torch.randn(2, 5, 12).double()
    rotation = (torch.rand(1, 5, 2).double(), torch.rand(1, 5, 2).double())
    attention(x, rotation=rotation, cache=cache)
    assert cache.k.shape == cache.v.shape == (2, 2, 5, 2)
    assert torch.equal(cache.k, attention.book.rotary(attention.split_heads(attention.k(x)), *rotation))


def t5_bias(config, heads, *, bidirectional):
    theirs = T5Config(
        num_heads=heads,
        relative_attention_num_buckets=config.buckets,
        relative_attention_max_distance=config.max_distance,
        is_decoder=not bidirectional,
    )
    return T5Attention(theirs, has_relative_attention_bias=True, layer_idx=0)


@books
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (1, 1), (1, 7), (3, 7), (40, 40)])
def test_relative_bias_is_t5s(queries, keys, bidirectional, book):
    """With a cache: the last `queries` of `keys` places have the last rows of the whole bias."""
    config = RelativePositionsConfig(buckets=8, max_distance=12)
    ours = noisy(RelativeBias(config, 3, bidirectional=bidirectional), book)
    theirs = t5_bias(config, 3, bidirectional=bidirectional).double()
    with torch.no_grad():
        theirs.relative_attention_bias.weight.copy_(ours.weight)
    got = ours(queries, keys)
    assert got.shape == (1, 3, queries, keys)
    assert torch.equal(got, theirs.compute_bias(queries, keys, past_seen_tokens=keys - queries))
    assert torch.equal(got, ours(keys, keys)[:, :, keys - queries :])


@books
def test_relative_bias_is_added_to_the_scores(book):
    """T5's attention: no factor on the scores, and a bias for each head and distance."""
    relative = RelativePositionsConfig(buckets=8, max_distance=12)
    config = dataclasses.replace(STACK, score_scale=1.0, biases=(), head_width=5)
    ours, bias = noisy(MultiHeadAttention(config), book), noisy(RelativeBias(relative, 3, bidirectional=True), book)
    theirs = T5Attention(
        T5Config(d_model=12, num_heads=3, d_kv=5, relative_attention_num_buckets=8, relative_attention_max_distance=12),
        has_relative_attention_bias=True,
    )
    weights = {f"{part}.weight": getattr(ours, part).weight for part in "qkvo"}
    theirs = give(theirs, weights | {"relative_attention_bias.weight": bias.weight})
    x = torch.randn(2, 6, 12).double()
    expected = theirs(x)[0]
    torch.testing.assert_close(ours(x, bias=bias(6, 6)), expected, rtol=1e-5, atol=1e-5)  # its softmax is in float32


def test_every_bucket_that_is_used_learns():
    bias = noisy(RelativeBias(RelativePositionsConfig(buckets=8, max_distance=12), 3, bidirectional=True))
    bias(20, 20).sum().backward()
    used = bias.weight.grad.abs().sum(1) > 0
    assert used.tolist() == [True] * 4 + [False] + [True] * 3  # a key that comes later is at least one place away
