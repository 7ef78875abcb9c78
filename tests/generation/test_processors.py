"""Each processor gives the scores of transformers' LogitsProcessor, and they run in its order."""

import warnings
from functools import partial

import pytest
import torch
import transformers
from generation_draws import pair
from hypothesis import given
from hypothesis import strategies as st
from oracle import Case
from transformers.generation import logits_process as theirs

from minitransformer.generation import processors as own
from minitransformer.generation.processors import Lengths, process, processors
from minitransformer.generation.settings import settings

ROWS, SIZE = 3, 11
SEEDS = st.integers(0, 2**32)
TOKENS = st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=6, unique=True)


def question(seed, length=6):
    """Texts of few different tokens, so that they repeat, and scores: some equal, some forbidden already."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 4 if seed % 2 else SIZE, (ROWS, length), generator=generator)
    scores = 3 * torch.randn(ROWS, SIZE, generator=generator)
    scores[:, 3] = scores[:, 5]
    scores[2, [3, 5]] = 9.0  # the two most probable, equally so
    scores[1, 7] = -torch.inf
    return ids, scores


def assert_same(ours, reference, seed, length=6):
    ids, scores = question(seed, length)
    before = scores.clone()
    got = ours(ids, scores)
    assert torch.equal(scores, before)  # what is handed in stays as it is
    torch.testing.assert_close(got, reference(ids, before), rtol=0, atol=0)


@given(SEEDS, st.sampled_from([0.5, 1.2, 3.0]), st.lists(st.integers(0, 5), min_size=ROWS, max_size=ROWS))
def test_repetition(seed, penalty, padding):
    plain = theirs.RepetitionPenaltyLogitsProcessor(penalty)
    assert_same(partial(own.penalise_repetition, penalty=penalty, padding=None), plain, seed)
    padding = torch.tensor(padding)
    behind = theirs.RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=padding)
    assert_same(partial(own.penalise_repetition, penalty=penalty, padding=padding), behind, seed)


@given(SEEDS, st.integers(1, 5), st.integers(1, 9))
def test_ngrams(seed, size, length):
    assert_same(partial(own.forbid_repeated_ngrams, size=size), theirs.NoRepeatNGramLogitsProcessor(size), seed, length)


@given(SEEDS, st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=4), st.integers(1, 6))
def test_bad_words(seed, words, length):
    def ours(ids, scores):
        config = settings({}, {"bad_words_ids": words, "eos_token_id": [2]})
        return process(processors(config, Lengths(1, 0, 20)), ids, scores)

    if all(word == [2] for word in words):
        return  # transformers refuses words that are all end tokens
    assert_same(ours, theirs.NoBadWordsLogitsProcessor(words, torch.tensor([2])), seed, length)


@given(SEEDS, TOKENS, st.integers(0, 8))
def test_no_end_before(seed, tokens, length):
    ours = partial(own.forbid_before, tokens=tokens, length=length)
    assert_same(ours, theirs.MinLengthLogitsProcessor(length, torch.tensor(tokens)), seed)
    new = theirs.MinNewTokensLengthLogitsProcessor(2, length, torch.tensor(tokens))
    assert_same(partial(own.forbid_before, tokens=tokens, length=length + 2), new, seed)


@given(SEEDS, TOKENS, st.integers(1, 3))
def test_forced(seed, tokens, length):
    first = partial(own.force_at, tokens=tokens[:1], length=1)
    assert_same(first, theirs.ForcedBOSTokenLogitsProcessor(tokens[0]), seed, length)
    last = partial(own.force_at, tokens=tokens, length=2)
    assert_same(last, theirs.ForcedEOSTokenLogitsProcessor(3, torch.tensor(tokens)), seed, length)


@given(SEEDS, TOKENS, st.integers(1, 3))
def test_suppressed(seed, tokens, length):
    assert_same(partial(own.forbid, tokens=tokens), theirs.SuppressTokensLogitsProcessor(tokens), seed)
    assert_same(partial(own.forbid, tokens=[*tokens, SIZE, 99]), theirs.SuppressTokensLogitsProcessor(tokens), seed)
    begin = theirs.SuppressTokensAtBeginLogitsProcessor(tokens, 2)
    assert_same(partial(own.forbid_at, tokens=tokens, length=2), begin, seed, length)


@given(SEEDS, st.sampled_from([0.1, 0.7, 5.0]))
def test_temperature(seed, temperature):
    assert_same(partial(own.divide_by, temperature=temperature), theirs.TemperatureLogitsWarper(temperature), seed)


@given(SEEDS, st.integers(1, SIZE + 4), st.integers(1, 3))
def test_top_k(seed, k, least):
    reference = theirs.TopKLogitsWarper(k, min_tokens_to_keep=least)
    assert_same(partial(own.keep_top_k, k=max(k, least)), reference, seed)


@given(SEEDS, st.sampled_from([1e-6, 0.1, 0.5, 0.9, 0.999]), st.integers(1, 3))
def test_top_p(seed, p, least):
    assert_same(partial(own.keep_top_p, p=p, least=least), theirs.TopPLogitsWarper(p, min_tokens_to_keep=least), seed)


@given(SEEDS, st.sampled_from([0.0, 0.05, 0.5, 1.0]), st.integers(1, 3))
def test_min_p(seed, p, least):
    assert_same(partial(own.keep_min_p, p=p, least=least), theirs.MinPLogitsWarper(p, min_tokens_to_keep=least), seed)


EVERYTHING = {
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "bad_words_ids": [[3, 1], [6]],
    "min_new_tokens": 3,
    "eos_token_id": [4, 9],
    "forced_bos_token_id": 2,
    "forced_eos_token_id": [4],
    "suppress_tokens": [8],
    "begin_suppress_tokens": [1, 7],
    "do_sample": True,
    "temperature": 1.7,
    "top_k": 7,
    "top_p": 0.9,
    "min_p": 0.05,
    "renormalize_logits": True,
}
NAMES = {  # our processor -> transformers'
    "penalise_repetition": "RepetitionPenalty",
    "forbid_repeated_ngrams": "NoRepeatNGram",
    "forbid_sequence": "NoBadWords",
    "forbid_before": "MinNewTokensLength",
    "force_at": "Forced",
    "forbid": "SuppressTokens",
    "forbid_at": "SuppressTokensAtBegin",
    "divide_by": "Temperature",
    "keep_top_k": "TopK",
    "keep_top_p": "TopP",
    "keep_min_p": "MinP",
    "<lambda>": "LogitNormalization",
}


def both_lists(fields, prompt, mask=None):
    """transformers' list as its generate makes it, and ours."""
    reference, _ = pair(Case("gpt2", "causal-lm"))
    config = transformers.GenerationConfig(**fields, max_length=12, pad_token_id=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference._prepare_special_tokens(config, kwargs_has_attention_mask=True, device="cpu")
        config.min_length = None
        wanted = reference._get_logits_processor(
            config,
            input_ids_seq_length=prompt,
            device="cpu",
            model_kwargs={} if mask is None else {"attention_mask": mask},
        )
    lengths = Lengths(prompt, prompt + fields["min_new_tokens"] if "min_new_tokens" in fields else 0, 12)
    return wanted, processors(settings({}, fields), lengths, mask)


def test_the_order_is_transformers():
    wanted, found = both_lists(EVERYTHING, 2)
    names = [getattr(f, "func", f).__name__ for f in found]
    names = [name for i, name in enumerate(names) if name != "forbid_sequence" or name not in names[:i]]
    for name, reference in zip(names, wanted, strict=True):
        assert type(reference).__name__.startswith(NAMES[name])


@given(SEEDS, st.sets(st.sampled_from(sorted(EVERYTHING.keys() - {"eos_token_id"}))), st.integers(1, 11))
def test_all_together(seed, names, length):
    """At each length of a text, padded, any choice of rules."""
    prompt = 1 + seed % 2
    mask = torch.ones(ROWS, prompt, dtype=torch.int64)
    mask[0, : prompt - 1] = 0
    fields = {name: EVERYTHING[name] for name in (*names, "eos_token_id")}
    if "top_k" not in fields:
        fields["top_k"] = 0
    wanted, found = both_lists(fields, prompt, mask)
    assert_same(partial(process, found), wanted, seed, max(length, prompt))


@pytest.mark.parametrize("name", EVERYTHING)
def test_a_rule_that_is_not_asked_for_is_not_there(name):
    neutral = {"eos_token_id", "temperature", "top_k", "top_p", "min_p"}
    _, found = both_lists({name: EVERYTHING[name]}, 2)
    expected = 2 if name == "bad_words_ids" else 0 if name in neutral or name == "min_new_tokens" else 1
    assert len(found) == expected  # do_sample: the default top_k of 50
    assert processors(settings({}, {}), Lengths(2, 0, 12)) == []


@pytest.mark.parametrize("ends", [None, [4], [4, 9]])
def test_a_sampled_beam_search_keeps_more_than_the_ends(ends):
    fields = {"do_sample": True, "num_beams": 3, "top_k": 1, "top_p": 1e-6, "min_p": 1.0, "eos_token_id": ends}
    wanted, found = both_lists(fields, 2)
    ids, scores = question(5)
    got = process(found, ids, scores)
    assert torch.equal(got, wanted(ids, scores.clone()))
    assert (got > -torch.inf).sum(1).tolist() == [1 + len(ends or [1])] * ROWS
