"""The same settings, the same seed: token for token what transformers' generate writes.

What is drawn is in the tables of `generation_draws.py`. Draws where nothing happens would prove nothing: so it is
counted, too, how often a text ended before its greatest length, and which settings changed it.
"""

import random
from collections import Counter

import pytest
import torch
from generation_draws import (
    BEAMS,
    RULES,
    SAMPLING,
    Draw,
    draw,
    expected,
    most_new,
    ours,
    pair,
    prompt_length,
    two_stacks,
)
from oracle import CASES, Case

from minitransformer.errors import InputError
from minitransformer.generation import generate
from minitransformer.generation.settings import settings

OFTEN, SELDOM, SLOW = 40, 16, 320  # draws for each family
FAMILIES = {
    "gpt2": OFTEN,
    "openai-gpt": SELDOM,
    "llama": OFTEN,
    "mistral": SELDOM,
    "qwen2": SELDOM,
    "qwen3": SELDOM,
    "t5": OFTEN,
    "bart": OFTEN,
    "marian": SELDOM,
    "bert": SELDOM,
    "electra": SELDOM,
}
TWO = ("t5", "bart", "marian")
ENCODERS = ("bert", "electra")  # which are decoders with is_decoder


def cases_of(family):
    head = "seq2seq-lm" if family in TWO else "causal-lm"
    decoder = "decoder" if family in ENCODERS else ""
    return [case for case in CASES if case.family == family and case.head == head and decoder in case.variant]


def same(case, drawn, dtype=torch.float64):
    """Whether both libraries write the same, and what; or both refuse, None."""
    reference, model = pair(case, dtype)
    try:
        wanted = expected(reference, drawn, two_stacks(case))
    except (RuntimeError, ValueError):
        with pytest.raises(InputError):
            ours(model, drawn)
        return None
    got = ours(model, drawn)
    assert torch.equal(got, wanted), f"{case} {drawn}\n{got.tolist()}\n{wanted.tolist()}"
    return got[:, prompt_length(drawn) :]


def lengths(drawn, new):
    """The length of each new text, its end token included: [R]."""
    ended = torch.isin(new, torch.tensor(drawn.fields.get("eos_token_id", [])))
    return torch.where(ended.any(1), ended.int().argmax(1) + 1, new.shape[1] + 1)


def compare(family, count):
    cases, seen = cases_of(family), Counter()
    for seed in range(count):
        case = random.Random(seed).choice(cases)
        drawn = draw(case, seed)
        try:
            new = same(case, drawn)
        except AssertionError:
            if "num_beams" not in drawn.fields or seen["ties"] == count // 300:
                raise
            seen["ties"] += 1  # of two texts whose float32 scores are one number, either may come first
            continue
        if new is None:
            seen["refused"] += 1
            continue
        each = lengths(drawn, new)
        seen["ended early"] += bool((each < each.new_tensor(most_new(drawn))).any())
        seen["of different lengths"] += len(each.unique()) > 1
        seen[("sampled" if "do_sample" in drawn.kinds else "most probable", "num_beams" in drawn.kinds)] += 1
        seen.update(drawn.kinds)
        seen[f"padding: {drawn.padding}"] += 1
        seen["several texts"] += len(new) > 1
    return seen


def assert_something_happened(seen, count):
    assert seen["refused"] <= count / 10
    assert seen["ended early"] >= count / 3
    assert seen["of different lengths"] >= count / 6
    for kind in ((how, beams) for how in ("sampled", "most probable") for beams in (True, False)):
        assert seen[kind] >= count / 10, kind
    for side in ("none", "left", "right"):
        assert seen[f"padding: {side}"] >= count / 8, side


@pytest.mark.parametrize(("family", "count"), FAMILIES.items())
def test_same_tokens(family, count):
    assert_something_happened(compare(family, count), count)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_same_tokens_more_often(family):
    seen = compare(family, SLOW)
    print(family, dict(seen))
    assert_something_happened(seen, SLOW)
    for name in (*RULES, *SAMPLING, *BEAMS, "no end token", "several end tokens", "max_length", "max_new_tokens"):
        assert seen[name] >= SLOW / 40, name
    if family in TWO:
        assert seen["decoder_input_ids"] >= SLOW / 8


WITHOUT = {  # in place of a setting: the value with which it does nothing
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": None,
    "min_length": 0,
    "renormalize_logits": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "eos_token_id": None,
    "do_sample": False,
    "num_beams": 1,
}


SELDOM_SEEN = {"early_stopping", "renormalize_logits"}  # which change few texts


def changes(count):
    """Setting -> how often it was drawn, and how often the text is another without it."""
    drawn, changed = Counter(), Counter()
    for family, seed in [(family, seed) for family in ("gpt2", "t5") for seed in range(count // 2)]:
        case = cases_of(family)[0]
        one = draw(case, seed)
        _, model = pair(case)
        try:
            text = ours(model, one)
            for name in one.fields.keys() & (RULES | SAMPLING | BEAMS | WITHOUT).keys():
                neutral = {name: WITHOUT.get(name)}
                if name in ("num_beams", "do_sample"):
                    neutral["num_return_sequences"] = 1
                other = ours(model, one, **neutral)
                drawn[name] += 1
                changed[name] += text.shape != other.shape or not torch.equal(text, other)
        except InputError:  # nothing is left to draw
            continue
    assert drawn.keys() >= RULES.keys() | SAMPLING.keys() | BEAMS.keys()
    return {name: (changed[name], drawn[name]) for name in drawn}


def test_the_drawn_settings_matter():
    """Without one of them, the text is another: in one draw out of ten, or more."""
    found = changes(50).items()
    assert [name for name, (changed, drawn) in found if changed < drawn / 10 and name not in SELDOM_SEEN] == []


@pytest.mark.slow
def test_all_the_drawn_settings_matter():
    assert [name for name, (changed, _) in changes(300).items() if not changed] == []


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_early_stopping(family):
    """Three ways to end a beam search: each is transformers', and they differ."""
    case = cases_of(family)[0]
    found = Counter()
    for seed in (2, 6, 10, 14, 18):
        drawn = draw(case, seed)
        keep = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
        drawn.fields = {name: x for name, x in drawn.fields.items() if name in keep}
        drawn.fields |= {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 7, "length_penalty": 2.0}
        texts = []
        for way in (True, False, "never"):
            drawn.fields["early_stopping"] = way
            texts.append(same(case, drawn).tolist())
        found += Counter({"True": texts[0] != texts[1], "never": texts[1] != texts[2]})
    print(found)
    assert found["True"]


@pytest.mark.parametrize("family", FAMILIES)
def test_in_float32(family):
    case = cases_of(family)[0]
    written = [same(case, draw(case, seed), torch.float32) for seed in range(1000, 1004)]
    assert any(new is not None for new in written)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_without_a_length(family):
    """Twenty new tokens."""
    case = cases_of(family)[0]
    drawn = draw(case, 5)
    drawn.fields = {name: x for name, x in drawn.fields.items() if name == "decoder_start_token_id"}
    drawn.ids, drawn.mask, drawn.padding, drawn.decoder_ids = drawn.ids[:, :3], None, "none", None
    new = same(case, drawn)
    assert new.shape[1] == 20


def argmax_loop(model, ids, steps):
    """Greedy decoding, no token twice and no padding, with nothing but a forward pass over everything."""
    for _ in range(steps):
        scores = model(ids).logits[:, -1].scatter(1, ids, -torch.inf)  # [B V]
        scores[:, 1] = -torch.inf
        ids = torch.cat((ids, scores.argmax(-1, keepdim=True)), dim=1)
    return ids


@pytest.mark.parametrize("variant", ["decoder", "odd-decoder"])
@pytest.mark.parametrize(("family", "head"), [("roberta", "causal-lm"), ("xlm-roberta", "causal-lm")])
def test_positions_that_begin_behind_the_padding_token(family, head, variant):
    """transformers' generate counts RoBERTa's positions from 0, its own forward pass from 2: we do as the latter."""
    case = Case(family, head, variant)
    reference, model = pair(case)
    ids = torch.randint(3, 50, (3, 4), generator=torch.Generator().manual_seed(3))
    config = settings({}, {"max_new_tokens": 8, "no_repeat_ngram_size": 1, "suppress_tokens": [1]})
    with torch.no_grad():
        wanted = argmax_loop(reference, ids, 8)
    assert torch.equal(generate(model, ids, config=config), wanted)
    padded, mask = torch.nn.functional.pad(ids, (3, 0), value=1), torch.nn.functional.pad(torch.ones_like(ids), (3, 0))
    assert torch.equal(generate(model, padded, mask, config=config)[:, 3:], wanted)


@pytest.mark.parametrize("variant", ["plain", "odd"])
def test_a_bart_decoder_alone(variant):
    """transformers gives its positions to padding, too; ours begin at the first token: padding changes no text."""
    case = Case("bart", "causal-lm", variant)
    _, model = pair(case)
    for seed in range(12):
        drawn = draw(case, seed, padded=False)
        same(case, drawn)
    ids = drawn.ids
    padded, mask = torch.nn.functional.pad(ids, (3, 0), value=1), torch.nn.functional.pad(torch.ones_like(ids), (3, 0))
    plain, shifted = (
        generate(model, *inputs, config=settings({}, {"max_new_tokens": 8})) for inputs in ((ids,), (padded, mask))
    )
    assert torch.equal(shifted[:, 3:], plain)


@pytest.mark.parametrize(
    ("family", "ids"),
    [
        ("gpt2", [[1, 1, 9, 8], [7, 6, 5, 4]]),
        ("gpt2", [[9, 1, 8], [7, 6, 5]]),
        ("bart", [[9, 1, 8], [7, 6, 5]]),
    ],
)
def test_pad_tokens_without_a_mask(family, ids):
    """They are padding for a decoder alone; an encoder reads them, as transformers' does."""
    case = cases_of(family)[0]
    start = {} if family == "gpt2" else {"decoder_start_token_id": 2}
    fields = {"max_new_tokens": 6, "pad_token_id": 1, "no_repeat_ngram_size": 1, **start}
    same(case, Draw(torch.tensor(ids), None, fields))


def test_padding_on_the_right_moves_to_the_left():
    case = Case("gpt2", "causal-lm")
    _, model = pair(case)
    ids = torch.randint(3, 40, (2, 5), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    config = settings({}, {"max_new_tokens": 6})
    with pytest.warns(UserWarning, match="padded on the right.*padding_side = 'left'"):
        got = generate(model, ids, mask, config=config)
    assert got[0, :5].tolist() == [*ids[0, 3:].tolist(), *ids[0, :3].tolist()]
    alone = generate(model, ids[:1, :3], config=config)
    assert torch.equal(got[:1, 2:], alone)
