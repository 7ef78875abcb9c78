"""A decoder with a cache gives the numbers of one without, in whatever steps it reads."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import (
    HEADS,
    LAYERS,
    PLACES,
    WIDTH,
    bart,
    bert,
    gpt2,
    ids,
    llama,
    marian,
    noisy,
    padding,
    paper,
    qwen,
    stack,
    t5,
)

from minitransformer.errors import InputError
from minitransformer.modules import KVCache

BATCH, LENGTH, SOURCE_LENGTH = 3, 7, 5
TOKENS, SOURCE = ids(BATCH, LENGTH, seed=1), ids(BATCH, SOURCE_LENGTH, seed=2)
MASKS = {
    "no padding": None,
    "on the left": padding([7, 3, 1], LENGTH, "left"),
    "on the right": padding([7, 3, 1], LENGTH),
    "in the middle": torch.tensor([[1, 1, 0, 0, 1, 1, 1], [1, 0, 0, 0, 1, 1, 1], [1] * 7]),  # prompts, then new tokens
}
SOURCE_MASKS = {
    "no padding": None,
    "on the left": padding([5, 2, 1], SOURCE_LENGTH, "left"),
    "on the right": padding([5, 2, 1], SOURCE_LENGTH),
}


def cut_at(sizes):
    """Where chunks of these sizes begin and end, the last one taking the rest: [(0, 3), (3, 7)]."""
    edges = [0]
    for size in sizes:
        if edges[-1] + size < LENGTH:
            edges.append(edges[-1] + size)
    return list(zip(edges, [*edges[1:], LENGTH], strict=True))


CHUNKS = st.lists(st.integers(1, LENGTH), max_size=LENGTH).map(cut_at)


def positions(mask):
    """Each real token's place among the real ones; None where nothing is padded."""
    return None if mask is None else (mask.cumsum(-1) - 1).clamp(min=0)


def takes_positions(model):
    """Relative positions are counted by the stack itself."""
    return model.decoder.relative_bias is None


def in_chunks(model, chunks, mask, **source):
    """The hidden states of TOKENS, read chunk by chunk with one cache; and the cache."""
    cache, hidden = KVCache.empty(layers=len(model.decoder.blocks)), []
    place = positions(mask) if takes_positions(model) else None
    for begin, end in chunks:
        seen = None if mask is None else mask[:, :end]
        places = None if place is None else place[:, begin:end]
        hidden.append(model.decode(TOKENS[:, begin:end], seen, position_ids=places, cache=cache, **source))
        assert cache.length == end
    return torch.cat(hidden, dim=1), cache


def assert_near(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("book", ["fused", "by_hand"])
@pytest.mark.parametrize("side", MASKS)
@given(chunks=CHUNKS)
@settings(max_examples=12)
def test_decoder_only(side, book, chunks):
    model, mask = noisy(gpt2(), book), MASKS[side]
    expected = model.decode(TOKENS, mask, position_ids=positions(mask))
    hidden, _ = in_chunks(model, chunks, mask)
    assert_near(hidden, expected)


@pytest.mark.parametrize("book", ["fused", "by_hand"])
@pytest.mark.parametrize("side", MASKS)
@pytest.mark.parametrize("source_side", SOURCE_MASKS)
@pytest.mark.parametrize("chunks", [[1] * LENGTH, [3, 1, 2], [LENGTH]], ids=str)
def test_encoder_decoder(chunks, source_side, side, book):
    model, mask, memory_mask = noisy(paper(), book), MASKS[side], SOURCE_MASKS[source_side]
    memory = model.encode(SOURCE, memory_mask, position_ids=positions(memory_mask))
    source = {"memory": memory, "memory_mask": memory_mask}
    expected = model.decode(TOKENS, mask, position_ids=positions(mask), **source)
    hidden, _ = in_chunks(model, cut_at(chunks), mask, **source)
    assert_near(hidden, expected)


SHARED = {"layer_order": (0, 1, 1, 0), "causal": True}
MORE_DECODERS = {
    "rotary positions, groups of heads": llama(),
    "a window, norms of queries and keys": qwen(),
    "a window of one": llama(window=1),
    "shared layers": gpt2(decoder=stack(**SHARED, norm_order="pre")),
    "relative positions": gpt2(decoder=stack(causal=True, relative_positions=t5().decoder.relative_positions)),
}
MORE_ENCODER_DECODERS = {
    "t5": t5(),
    "bart": bart(),
    "marian": marian(),
    "shared layers of two stacks": paper(layer_order=(0, 1, 1, 0)),
    "groups of heads": paper(kv_heads=1, norm="rms", gated=True),
}


@cache
def decoder_of(name, book):
    return noisy((MORE_DECODERS | MORE_ENCODER_DECODERS)[name], book)


@pytest.mark.parametrize("book", ["fused", "by_hand"])
@pytest.mark.parametrize("side", MASKS)
@pytest.mark.parametrize("name", MORE_DECODERS)
def test_other_decoders(name, side, book):
    model, mask = decoder_of(name, book), MASKS[side]
    place = positions(mask) if takes_positions(model) else None
    expected = model.decode(TOKENS, mask, position_ids=place)
    assert expected.isfinite().all()
    hidden, _ = in_chunks(model, cut_at([2, 1, 1, 2]), mask)
    assert_near(hidden, expected)


@pytest.mark.parametrize("book", ["fused", "by_hand"])
@pytest.mark.parametrize("side", MASKS)
@pytest.mark.parametrize("name", MORE_ENCODER_DECODERS)
def test_other_encoder_decoders(name, side, book):
    model, mask, memory_mask = decoder_of(name, book), MASKS[side], SOURCE_MASKS["on the right"]
    source = {"memory": model.encode(SOURCE, memory_mask), "memory_mask": memory_mask}
    place = positions(mask) if takes_positions(model) else None
    expected = model.decode(TOKENS, mask, position_ids=place, **source)
    hidden, _ = in_chunks(model, cut_at([2, 1, 1, 2]), mask, **source)
    assert_near(hidden, expected)


def test_rotary_positions_tell_distances_only():
    """All positions moved by the same number: the same output. One position moved: another."""
    model, places = noisy(llama()), torch.arange(LENGTH)[None]
    expected = model.decode(TOKENS, position_ids=places)
    moved = model.decode(TOKENS, position_ids=places + 8)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)  # angles are in float32
    places = places.clone()
    places[0, 2] = 9
    assert (model.decode(TOKENS, position_ids=places) - expected).abs().max() > 1e-2


def test_a_window_forgets():
    """Two layers and a window of 3: the last token sees four tokens before it, and no more."""
    model = noisy(qwen())
    for place in range(LENGTH):
        changed = TOKENS.clone()
        changed[:, place] = (changed[:, place] + 1) % 13
        same = torch.equal(model.decode(changed)[:, -1], model.decode(TOKENS)[:, -1])
        assert same == (place < LENGTH - 5)


def test_what_a_cache_of_other_decoders_holds():
    model = noisy(llama())
    _, cache = in_chunks(model, cut_at([3]), None)
    assert cache.self_attn[1].k.shape == (BATCH, 2, LENGTH, 4)  # 2 heads of keys serve 6 of queries
    model = noisy(gpt2(decoder=stack(**SHARED)))
    _, cache = in_chunks(model, cut_at([3]), None)
    assert len(cache.self_attn) == 4  # one for each turn of the two layers
    assert not torch.equal(cache.self_attn[0].k, cache.self_attn[3].k)
    with pytest.raises(InputError, match=r"cache: got 2 layers, expected 4; try KVCache.empty\(layers=4\)"):
        model.decode(TOKENS, cache=KVCache.empty(layers=2))


def test_beyond_the_texts_of_training_is_a_warning():
    model = noisy(llama())
    cache = KVCache.empty(layers=LAYERS)
    model.decode(ids(1, PLACES), cache=cache)
    with pytest.warns(UserWarning, match=f"got {PLACES + 1} tokens, but the model was trained on texts of up to"):
        model.decode(ids(1, 1), cache=cache)


def test_through_the_whole_model():
    model, cache = noisy(paper()), KVCache.empty(layers=LAYERS)
    mask, memory_mask = MASKS["on the right"], SOURCE_MASKS["on the right"]
    expected = model(SOURCE, memory_mask, decoder_input_ids=TOKENS, decoder_attention_mask=mask).logits
    for t in range(LENGTH):
        step = {"decoder_input_ids": TOKENS[:, t : t + 1], "decoder_attention_mask": mask[:, : t + 1]}
        assert_near(model(SOURCE, memory_mask, **step, cache=cache).logits, expected[:, t : t + 1])


def test_causal_lm_logits_and_attentions():
    model, cache = noisy(gpt2()), KVCache.empty(layers=LAYERS)
    expected = model(TOKENS, output_attentions=True)
    model(TOKENS[:, :4], cache=cache)
    out = model(TOKENS[:, 4:], cache=cache, output_attentions=True)
    assert_near(out.logits, expected.logits[:, 4:])
    assert_near(out.attentions[1], expected.attentions[1][:, :, 4:])


def test_what_a_cache_holds():
    model = noisy(paper())
    memory = model.encode(SOURCE)
    _, cache = in_chunks(model, cut_at([3]), None, memory=memory)
    kept = cache.cross_attn[1]
    keys, values = kept.keys, kept.values
    for layer, block in enumerate(model.decoder.blocks):
        for part, length in ((cache.self_attn[layer], LENGTH), (cache.cross_attn[layer], SOURCE_LENGTH)):
            assert part.k.shape == part.v.shape == (BATCH, HEADS, length, WIDTH // HEADS)
        assert_near(cache.cross_attn[layer].v, block.cross_attn.split_heads(block.cross_attn.v(memory)))
    model.decode(TOKENS[:, :1], memory=memory, cache=cache)
    assert kept.keys is keys  # the encoder's output is projected once
    assert kept.values is values
    assert kept.length == SOURCE_LENGTH


def test_a_decoder_without_an_encoder_keeps_no_cross_attention():
    _, cache = in_chunks(noisy(gpt2()), cut_at([3]), None)
    assert all(part.k is None and part.v is None for part in cache.cross_attn)


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        (KVCache.empty(layers=LAYERS - 1), r"got 1 layers, expected 2; try KVCache.empty\(layers=2\)"),
        (KVCache.empty(layers=LAYERS + 1), "got 3 layers, expected 2"),
        (KVCache(), "got 0 layers, expected 2"),
    ],
)
def test_a_cache_of_another_depth(cache, message):
    with pytest.raises(InputError, match=f"cache: {message}"):
        noisy(gpt2())(TOKENS, cache=cache)


def filled(model):
    cache = KVCache.empty(layers=LAYERS)
    model(TOKENS, cache=cache)
    return cache


def test_a_cache_of_another_batch():
    model = noisy(gpt2())
    cache = filled(model)
    with pytest.raises(InputError, match="cache: got 3 texts, expected 1"):
        model(TOKENS[:1], cache=cache)
    assert cache.length == LENGTH  # nothing was written


def test_a_mask_without_the_cached_tokens():
    model = noisy(gpt2())
    with pytest.raises(InputError, match=r"got shape \[3, 1\], expected \[3, 8\].*tokens of the cache included"):
        model(TOKENS[:, :1], torch.ones(3, 1), cache=filled(model))


def test_more_tokens_than_positions():
    model = noisy(gpt2())
    cache = filled(model)
    model(ids(BATCH, PLACES - LENGTH), cache=cache)
    with pytest.raises(InputError, match="got a sequence of 17 tokens, but the model has 16 positions"):
        model(TOKENS[:, :1], cache=cache)


def test_a_cache_for_an_encoder():
    with pytest.raises(InputError, match="cache: this model has no decoder"):
        noisy(bert())(TOKENS, cache=KVCache.empty(layers=LAYERS))
