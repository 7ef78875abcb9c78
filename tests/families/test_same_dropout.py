"""Dropout at the same places with the same probabilities as in transformers.

Chance is taken out: a dropout of probability p scales every third number by 1 - p. Each place has its own p, and the
numbers that are scaled lie in another direction at each place, so none can be mistaken for another.
"""

import dataclasses

import pytest
import torch
from oracle import CASES, IMAGES, ROTARY, Case, assert_same, checkpoint, make_batch, theirs

import minitransformer as mt
from minitransformer.families import FAMILIES
from minitransformer.ops import BOOKS, by_hand, fused

BERT = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.5, "classifier_dropout": 0.7}
GPT = {"embd_pdrop": 0.3, "attn_pdrop": 0.5, "resid_pdrop": 0.7, "summary_first_dropout": 0.2}
BART = {"dropout": 0.3, "attention_dropout": 0.5, "activation_dropout": 0.7}
PROBABILITIES = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "electra": {**BERT, "summary_last_dropout": 0.9, "summary_first_dropout": 0.2},
    "distilbert": {"dropout": 0.3, "attention_dropout": 0.5, "qa_dropout": 0.7, "seq_classif_dropout": 0.9},
    "albert": {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.5, "classifier_dropout_prob": 0.7},
    "openai-gpt": GPT,
    "gpt2": {**GPT, "classifier_dropout": 0.9},
    **{name: {"attention_dropout": 0.5, "classifier_dropout": 0.7} for name in sorted(ROTARY)},
    "t5": {"dropout_rate": 0.3, "classifier_dropout": 0.7},
    "bart": {**BART, "classifier_dropout": 0.9},
    "marian": BART,
    **{name: {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.5} for name in sorted(IMAGES)},
}
# Where each probability shows: a head that has the place.
SHOWS = {
    "classifier_dropout": ("token-classification", "sequence-classification"),
    "classifier_dropout_prob": ("token-classification",),
    "qa_dropout": ("question-answering",),
    "seq_classif_dropout": ("sequence-classification",),
    "summary_last_dropout": ("multiple-choice",),
    "summary_first_dropout": ("multiple-choice", "double-heads"),
}
TRAINED = [case for case in CASES if case.variant in ("plain", "decoder")]


def scaled(x, p=0.5, training=True, inplace=False):
    """In place of dropout."""
    every_third = torch.arange(x.shape[-1]) % 3 == 0
    return x * (1 - p * every_third) if training else x


def attention_with_scaled_weights(q, k, v, *, attn_mask=None, dropout_p=0.0, scale=None):
    """In place of the kernel, which draws inside."""
    scores = q @ k.transpose(-2, -1) * scale
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scaled(torch.softmax(scores, -1), dropout_p) @ v


@pytest.fixture
def no_chance(monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "dropout", scaled)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention_with_scaled_weights)
    for name, book in {"by_hand": by_hand, "fused": fused}.items():
        monkeypatch.setattr(book, "drop", scaled)
        monkeypatch.setitem(BOOKS, name, dataclasses.replace(BOOKS[name], drop=scaled))


@pytest.mark.parametrize("book", ["by_hand", "fused"])
@pytest.mark.parametrize("case", TRAINED, ids=str)
@pytest.mark.usefixtures("no_chance")
def test_places(case, book):
    folder = checkpoint(case, **PROBABILITIES[case.family])
    reference, model = theirs(case, folder).train(), mt.load(folder).train().use(book)
    batch = make_batch(case, "right")
    with torch.no_grad():
        expected = reference(**batch, output_hidden_states=True)
        assert_same(model(**batch, output_hidden_states=True), expected, batch)
        assert_same(model.eval()(**batch), reference.eval()(**batch), batch)


def shown(family, field):
    heads = [head for head in SHOWS.get(field, ("base",)) if head in FAMILIES[family].classes]
    return Case(family, heads[0])


@pytest.mark.parametrize(
    ("family", "field"), [(family, field) for family, fields in PROBABILITIES.items() for field in fields]
)
@pytest.mark.usefixtures("no_chance")
def test_each_probability_counts(family, field):
    """Without this, a place that neither model has would pass unseen."""
    case = shown(family, field)
    batch = make_batch(case, "right")
    states = []
    for p in (0.0, 0.5):
        folder = checkpoint(case, **{**dict.fromkeys(PROBABILITIES[family], 0.0), field: p})
        with torch.no_grad():
            output = mt.load(folder).train().use("fused")(**batch)
        states += [
            x for x in (output.mc_logits, output.logits, output.start_logits, output.last_hidden_state) if x is not None
        ][:1]
    assert (states[0] - states[1]).abs().max() > 1e-3


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
