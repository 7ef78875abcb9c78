"""Dropout at the same places with the same probabilities as in transformers.

Chance is taken out: a dropout of probability p scales every third number by 1 - p. Each place has its own p, and the
numbers that are scaled lie in another direction at each place, so none can be mistaken for another.
"""

import dataclasses

import pytest
import torch
from oracle import CASES, Case, assert_same, checkpoint, make_batch, theirs

import minitransformer as mt
from minitransformer.ops import BOOKS, by_hand

PROBABILITIES = {
    "bert": {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.5, "classifier_dropout": 0.7},
    "gpt2": {"embd_pdrop": 0.3, "attn_pdrop": 0.5, "resid_pdrop": 0.7, "classifier_dropout": 0.9},
}
TRAINED = [case for case in CASES if case.variant in ("plain", "decoder", "odd-decoder")]


def scaled(x, p=0.5, training=True, inplace=False):
    """In place of dropout."""
    every_third = torch.arange(x.shape[-1]) % 3 == 0
    return x * (1 - p * every_third) if training else x


def attention_with_scaled_weights(q, k, v, *, attn_mask=None, dropout_p=0.0, scale=None):
    """In place of the kernel, which draws inside."""
    scores = q @ k.transpose(-2, -1) * scale
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    return scaled(torch.softmax(scores, -1), dropout_p) @ v


@pytest.fixture
def no_chance(monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "dropout", scaled)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention_with_scaled_weights)
    monkeypatch.setattr(by_hand, "drop", scaled)
    monkeypatch.setitem(BOOKS, "by_hand", dataclasses.replace(BOOKS["by_hand"], drop=scaled))


@pytest.mark.parametrize("book", ["by_hand", "fused"])
@pytest.mark.parametrize("case", TRAINED, ids=str)
@pytest.mark.usefixtures("no_chance")
def test_places(case, book):
    folder = checkpoint(case, **PROBABILITIES[case.family])
    reference, model = theirs(case, folder).train(), mt.load(folder).train().use(book)
    batch = make_batch(case, "right")
    with torch.no_grad():
        expected = reference(**batch, output_hidden_states=True)
        assert_same(model(**batch, output_hidden_states=True), expected, batch["attention_mask"])
        calm = model.eval()(**batch)
        assert_same(calm, reference.eval()(**batch), batch["attention_mask"])


@pytest.mark.parametrize(
    ("case", "field"),
    [(Case(family, "token-classification"), field) for family in PROBABILITIES for field in PROBABILITIES[family]],
    ids=str,
)
@pytest.mark.usefixtures("no_chance")
def test_each_probability_counts(case, field):
    """Without this, a place that neither model has would pass unseen."""
    batch = make_batch(case, "right")
    logits = []
    for p in (0.0, 0.5):
        folder = checkpoint(case, **{**dict.fromkeys(PROBABILITIES[case.family], 0.0), field: p})
        with torch.no_grad():
            logits.append(mt.load(folder).train()(**batch).logits)
    assert (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("book", ["by_hand", "fused"])
def test_chance(book):
    """Training draws anew each time, evaluation never; the generator's state decides."""
    model = mt.load(checkpoint(Case("bert", "base"))).use(book)
    batch = make_batch(Case("bert", "base"), "right")

    def run():
        with torch.no_grad():
            return model(**batch).last_hidden_state

    assert torch.equal(run(), run())
    model.train()
    torch.manual_seed(1)
    first, second = run(), run()
    torch.manual_seed(1)
    assert torch.equal(run(), first)
    assert not torch.equal(first, second)
