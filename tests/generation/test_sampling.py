"""Drawn tokens have the probabilities they should have; a seed draws the same again."""

import math

import pytest
import torch
from generation_draws import pair
from oracle import Case
from scipy.stats import chisquare

from minitransformer.errors import InputError
from minitransformer.generation import generate
from minitransformer.generation.processors import Lengths, process, processors
from minitransformer.generation.sample import sampled
from minitransformer.generation.settings import settings

LOGITS = [2.0, 1.1, 1.0, 0.3, 0.0, -0.5, -1.0, -2.5]
COUNT = 8000
LEAST = 1e-3  # a p-value that a right sampler falls below in one of a thousand seeds, which are fixed
GPT2, T5 = Case("gpt2", "causal-lm"), Case("t5", "seq2seq-lm")


def probabilities(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The exact distribution, by the definitions: each rule takes what the one before left."""
    weights = {i: math.exp(x / temperature) for i, x in enumerate(LOGITS)}
    order = sorted(weights, key=weights.get, reverse=True)
    order = order[: top_k or len(order)]
    total, kept, mass = sum(weights[i] for i in order), [], 0.0
    for i in order:
        if mass < top_p:
            kept.append(i)
        mass += weights[i] / total
    kept = [i for i in kept if weights[i] >= min_p * weights[kept[0]]]
    total = sum(weights[i] for i in kept)
    return {i: weights[i] / total for i in kept}


def drawn(seed=0, **fields):
    """How often each token was drawn from LOGITS."""
    rules = processors(settings({}, {"do_sample": True, "top_k": 0, **fields}), Lengths(1, 0, 9))
    scores = process(rules, torch.zeros(COUNT, 1, dtype=torch.int64), torch.tensor(LOGITS).repeat(COUNT, 1))
    tokens = sampled(scores, 1, torch.Generator().manual_seed(seed))
    return tokens.flatten().bincount(minlength=len(LOGITS)).tolist()


def p_value(counts, expected):
    """How probable counts so far from expected are; 0 if what cannot be drawn was."""
    if sum(counts[i] for i in expected) < COUNT:
        return 0.0
    if len(expected) == 1:
        return 1.0
    return chisquare([counts[i] for i in expected], [COUNT * p for p in expected.values()]).pvalue


CASES = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 3},
    {"top_k": 1},
    {"top_p": 0.8},
    {"top_p": 0.3},
    {"min_p": 0.2},
    {"temperature": 2.0, "top_k": 6, "top_p": 0.9, "min_p": 0.1},
    {"temperature": 0.7, "top_p": 0.9},
]


@pytest.mark.parametrize("fields", CASES, ids=str)
def test_the_distribution(fields):
    for seed in range(3):
        assert p_value(drawn(seed, **fields), probabilities(**fields)) > LEAST


@pytest.mark.parametrize(
    ("drawn_with", "expected_of"),
    [
        ({"temperature": 1.1}, {}),
        ({"temperature": 0.5}, {"temperature": 0.55}),
        ({"top_k": 4}, {"top_k": 3}),
        ({"top_k": 3}, {"top_k": 4}),
        ({"top_p": 0.7}, {"top_p": 0.8}),
        ({"top_p": 0.8}, {"top_p": 0.9}),
        ({"min_p": 0.2}, {"min_p": 0.1}),
        ({"temperature": 2.0, "top_p": 0.6}, {"top_p": 0.6}),
    ],
    ids=str,
)
def test_the_test_would_see_another_distribution(drawn_with, expected_of):
    for seed in range(3):
        assert p_value(drawn(seed, **drawn_with), probabilities(**expected_of)) < LEAST / 10


def test_several_without_replacement():
    """What a sampled beam search draws: the first token as above, the second from what is left."""
    scores = torch.tensor(LOGITS).repeat(COUNT, 1)
    first, second = sampled(scores, 2, torch.Generator().manual_seed(0)).T
    assert not (first == second).any()
    expected = probabilities()
    assert p_value(first.bincount(minlength=8).tolist(), expected) > LEAST
    later = {i: sum(p * expected[i] / (1 - p) for j, p in expected.items() if j != i) for i in expected}
    assert p_value(second.bincount(minlength=8).tolist(), later) > LEAST


def test_through_generate():
    """The next token of a whole model, from thousands of copies of one prompt."""
    _, model = pair(GPT2)
    ids = torch.tensor([[5, 9, 3]])
    fields = {"max_new_tokens": 1, "do_sample": True, "top_k": 5, "temperature": 0.2, "num_return_sequences": COUNT}
    counts = generate(model, ids, config=settings({}, fields), seed=3)[:, -1].bincount(minlength=47)
    with torch.no_grad():
        logits, best = model(ids).logits[0, -1].topk(5)
    for temperature, right in ((0.2, True), (0.3, False)):
        expected = ((logits / temperature).softmax(-1) * COUNT).tolist()
        assert min(expected) > 5
        assert int(counts[best].sum()) == COUNT
        assert bool(chisquare(counts[best].tolist(), expected).pvalue > LEAST) is right


def text(case, seed, **fields):
    _, model = pair(case)
    start = {"decoder_start_token_id": 2} if case is T5 else {}
    fields = {"do_sample": True, "max_new_tokens": 8, "temperature": 2.0, **start, **fields}
    ids = torch.tensor([[5, 9, 3, 7], [4, 4, 8, 6]])
    return generate(model, ids, config=settings({}, fields), seed=seed)


@pytest.mark.parametrize("fields", [{}, {"num_beams": 3}, {"num_return_sequences": 4}], ids=str)
@pytest.mark.parametrize("case", [GPT2, T5], ids=str)
def test_a_seed_draws_the_same_again(case, fields):
    first = text(case, 7, **fields)
    torch.rand(5)
    assert torch.equal(first, text(case, 7, **fields))
    assert any(
        first.shape != (other := text(case, seed, **fields)).shape or not torch.equal(first, other) for seed in (8, 9)
    )


@pytest.mark.parametrize("fields", [{}, {"num_beams": 3}], ids=str)
def test_the_global_generator_is_left_alone(fields):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    text(GPT2, 7, **fields)
    text(GPT2, None, do_sample=False, temperature=1.0, **fields)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("fields", [{}, {"num_beams": 3}], ids=str)
def test_without_a_seed_the_global_generator_draws(fields):
    torch.manual_seed(5)
    first, second = text(GPT2, None, **fields), text(GPT2, None, **fields)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(text(GPT2, None, **fields), first)
    assert torch.equal(text(GPT2, 5, **fields), first)  # one seed, one text, whoever draws


def test_copies_are_drawn_each_for_itself():
    rows = text(GPT2, 0, num_return_sequences=6)
    assert torch.equal(rows[:6, :4], rows[:1, :4].expand(6, 4))
    assert torch.equal(rows[6:, :4], rows[6:7, :4].expand(6, 4))
    assert len(rows[:6].unique(dim=0)) > 3


@pytest.mark.parametrize("beams", [1, 2])
def test_nothing_to_draw(beams):
    """Every token forbidden is a clear error, not NaN."""
    with pytest.raises(InputError, match="no token is left to choose: the settings forbid every one"):
        text(GPT2, 0, suppress_tokens=list(range(47)), num_beams=beams)


def test_a_model_that_gives_nan():
    with pytest.raises(InputError, match="or the model's logits are not finite"):
        sampled(torch.full((2, 5), torch.nan), 1, None)
