"""Step by step with a cache: the numbers of transformers' `use_cache`, and those of one pass over everything."""

import pytest
import torch
from oracle import Case, both_models, make_batch

from minitransformer import KVCache
from minitransformer.errors import InputError

CASES = [
    Case("gpt2", "causal-lm"),
    Case("gpt2", "causal-lm", "odd"),
    Case("gpt2", "base", "silu"),
    Case("bert", "causal-lm", "decoder"),
    Case("roberta", "causal-lm", "decoder"),
    Case("electra", "causal-lm", "decoder"),
    Case("bart", "causal-lm"),
    Case("llama", "causal-lm"),
    Case("mistral", "base", "window"),
    Case("mistral", "causal-lm", "odd"),
    Case("qwen2", "causal-lm"),
    Case("qwen3", "causal-lm"),
]
TWO_STACKS = [
    Case(family, "seq2seq-lm", variant) for family in ("t5", "bart", "marian") for variant in ("plain", "odd")
]
PROMPT = 5


def numbers(output):
    return output.last_hidden_state if getattr(output, "logits", None) is None else output.logits


def step_inputs(batch, start, end):
    """Tokens `start` to `end`, with the mask of all tokens so far."""
    first = {"attention_mask": 0}
    return {name: x[:, first.get(name, start) : end] for name, x in batch.items()}


@pytest.mark.parametrize("book", ["by_hand", "fused"])
@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_steps(case, padding, book):
    reference, model = both_models(case)
    model.use(book)
    batch = make_batch(case, padding, lengths=(11, 8, 9))
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        at_once = numbers(model(**batch))
        cache, kept = KVCache.empty(layers=len(model.transformer.decoder.blocks)), None
        for start, end in ((0, PROMPT), (PROMPT, 6), (6, 9), (9, 10), (10, 11)):  # a prompt, then one or several
            inputs = step_inputs(batch, start, end)
            theirs = reference(**inputs, past_key_values=kept, use_cache=True)
            kept = theirs.past_key_values
            ours = numbers(model(**inputs, cache=cache))
            shown = real[:, start:end]
            torch.testing.assert_close(ours[shown], numbers(theirs)[shown], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(ours[shown], at_once[:, start:end][shown], atol=1e-5, rtol=1e-5)
            assert cache.length == end


@pytest.mark.parametrize("book", ["by_hand", "fused"])
@pytest.mark.parametrize("case", TWO_STACKS, ids=str)
def test_steps_of_a_decoder_behind_an_encoder(case, book):
    """Cross-attention's keys and values are those of the first step; relative positions count from the last place."""
    reference, model = both_models(case)
    model.use(book)
    batch = make_batch(case, "right", lengths=(9, 13, 6))
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    ids = batch["decoder_input_ids"]
    layers = len(model.transformer.decoder.blocks)
    with torch.no_grad():
        at_once = model(**text, decoder_input_ids=ids).logits
        cache, kept = KVCache.empty(layers=layers), None
        for start, end in ((0, 4), (4, 5), (5, 8), (8, 9)):
            step = ids[:, start:end]
            expected = reference(**text, decoder_input_ids=step, past_key_values=kept, use_cache=True)
            kept = expected.past_key_values
            ours = model(**text, decoder_input_ids=step, cache=cache).logits
            torch.testing.assert_close(ours, expected.logits, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(ours, at_once[:, start:end], atol=1e-5, rtol=1e-5)


def test_positions_after_a_cache():
    """Without position_ids they go on where the cache ends."""
    case = Case("gpt2", "causal-lm")
    reference, model = both_models(case)
    ids = make_batch(case, "none")["input_ids"]
    cache = KVCache.empty(layers=3)
    with torch.no_grad():
        expected = reference(ids).logits
        steps = [model(ids[:, :4], cache=cache).logits, model(ids[:, 4:], cache=cache).logits]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, atol=1e-5, rtol=1e-5)


def test_a_cache_that_does_not_fit():
    _, gpt2 = both_models(Case("gpt2", "causal-lm"))
    _, bert = both_models(Case("bert", "masked-lm"))
    ids = torch.ones(1, 9, dtype=torch.int64)
    with pytest.raises(InputError, match="got 2 layers, expected 3"):
        gpt2(ids, cache=KVCache.empty(layers=2))
    with pytest.raises(InputError, match="no decoder"):
        bert(ids, cache=KVCache.empty(layers=2))
    cache = KVCache.empty(layers=3)
    gpt2(ids, cache=cache)
    with pytest.raises(InputError, match="sequence of 18 tokens, but the model has 17 positions"):
        gpt2(ids, cache=cache)
