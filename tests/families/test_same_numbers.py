"""The same numbers as transformers: each family, each head, both books, padding on either side, all losses."""

import pytest
import torch
from oracle import (
    CASES,
    DECODERS,
    IMAGES,
    Case,
    assert_same,
    both_models,
    checkpoint,
    make_batch,
    make_targets,
    their_targets,
    theirs,
)

import minitransformer as mt
from minitransformer.errors import InputError

BOOKS = ("by_hand", "fused")
CLASSIFIER = Case("bert", "sequence-classification")
UNEQUAL = pytest.mark.xfail(reason="one mean over starts and ends together, where transformers takes the mean of two")
NO_LOSS = ("base", "encoder", "image-classification-with-teacher")
WITH_LOSS = [case for case in CASES if case.head not in NO_LOSS]


@pytest.mark.parametrize("book", BOOKS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs(case, book, record_property):
    record_property("parity", [case.family, case.head, None])  # it failed, unless it comes to the end
    reference, model = both_models(case)
    model.use(book)
    largest = 0.0
    for padding in ("none",) if case.family in IMAGES else ("none", "right", "left"):
        batch = make_batch(case, padding)
        insides = {"output_hidden_states": True, "output_attentions": True}
        with torch.no_grad():
            expected = reference(**batch, **insides)
            inside = assert_same(model(**batch, **insides), expected, batch)
            largest = max(largest, inside, assert_same(model(**batch), reference(**batch), batch))
    record_property("parity", [case.family, case.head, largest])


@pytest.mark.parametrize("case", [case for case in CASES if case.variant == "plain"], ids=str)
def test_what_may_be_left_out(case):
    """No mask: all tokens count. No types: type 0, or none. No positions: 0, 1, …"""
    reference, model = both_models(case)
    batch = make_batch(case, "none", lengths=(5, 5))
    for left_out in ([], ["attention_mask"], ["token_type_ids"], ["decoder_attention_mask"]):
        some = {name: x for name, x in batch.items() if name not in left_out}
        with torch.no_grad():
            assert_same(model(**some), reference(**some), {})


@pytest.mark.parametrize("family", ["openai-gpt", "gpt2"])
def test_loss_of_double_heads(family):
    """The sum of the two that transformers gives; the choice is read where `mc_token_ids` says."""
    case = Case(family, "double-heads")
    reference, model = both_models(case)
    batch = {"input_ids": make_batch(case, "none")["input_ids"]}
    batch["mc_token_ids"] = torch.tensor([[3, 8], [0, 5], [8, 1]])
    targets = {"labels": batch["input_ids"], "mc_labels": torch.tensor([1, 0, 1])}
    with torch.no_grad():
        ours, expected = model(**batch, **targets), reference(**batch, **targets)
        one = model(**batch, mc_labels=targets["mc_labels"])
    torch.testing.assert_close(ours.mc_logits, expected.mc_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.loss, expected.loss + expected.mc_loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.loss, expected.mc_loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_labels_are_what_the_decoder_reads(family):
    """Shifted right by one, behind the start token; what is not judged is read as padding."""
    case = Case(family, "seq2seq-lm")
    reference, model = both_models(case)
    batch = make_batch(case, "right")
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labels = torch.where(batch["decoder_attention_mask"] == 0, -100, batch["decoder_input_ids"])
    with torch.no_grad():
        ours, expected = model(**text, labels=labels), reference(**text, labels=labels)
    torch.testing.assert_close(ours.loss, expected.loss, atol=1e-5, rtol=1e-5)
    assert_same(ours, expected, {})


def loss_of(reference, batch, targets):
    reference.config.problem_type = None  # transformers notes what the first labels looked like, and keeps to it
    with torch.no_grad():
        return reference(**batch, **targets).loss


@pytest.mark.parametrize("book", BOOKS)
@pytest.mark.parametrize("case", WITH_LOSS, ids=str)
def test_loss(case, book):
    reference, model = both_models(case)
    model.use(book)
    # A causal model's padding on the left sees no token at all, and the answer's softmax is over padding, too.
    sees_nothing = case.family in DECODERS and case.head == "question-answering"
    for seed, padding in enumerate(("none", "right", *(() if sees_nothing else ("left",)))):
        batch = make_batch(case, padding, seed=seed)
        targets = make_targets(case, batch, seed=seed)
        with torch.no_grad():
            ours = model(**batch, **targets).loss
        expected = loss_of(reference, batch, their_targets(case, targets))
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_loss_of_several_labels_at_once(family):
    case = Case(family, "sequence-classification")
    reference, model = both_models(case)
    batch = make_batch(case, "right")
    targets = {"labels": torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]])}
    torch.testing.assert_close(model(**batch, **targets).loss.detach(), loss_of(reference, batch, targets))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_loss_of_a_number(shape):
    case = Case("bert", "sequence-classification", "odd")
    reference, model = both_models(case)
    batch, targets = make_batch(case, "right"), {"labels": torch.tensor([0.5, -2.0, 3.0]).view(shape)}
    torch.testing.assert_close(model(**batch, **targets).loss.detach(), loss_of(reference, batch, targets))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param([0, 1, 2], [3, 8, 8], id="all inside"),
        pytest.param([9, 1, 50], [9, 8, 50], id="two answers past the end"),
        pytest.param([9, 1, 2], [1, 99, 8], id="one of each past the end"),
        pytest.param([0, -1, 2], [9, 9, -1], id="two ends past the end", marks=UNEQUAL),
    ],
)
def test_loss_of_answers_past_the_end(family, start, end):
    case = Case(family, "question-answering")
    reference, model = both_models(case)
    batch = make_batch(case, "none")
    targets = {"start_positions": torch.tensor(start), "end_positions": torch.tensor(end)}
    torch.testing.assert_close(model(**batch, **targets).loss.detach(), loss_of(reference, batch, targets))


def test_loss_of_nothing_judged():
    """0 / 0 in both: a mean of nothing is not a number."""
    case = Case("bert", "masked-lm")
    reference, model = both_models(case)
    batch = make_batch(case, "right")
    targets = {"labels": torch.full_like(batch["input_ids"], -100)}
    assert loss_of(reference, batch, targets).isnan()
    assert model(**batch, **targets).loss.isnan()


def test_gpt2_reads_types_from_the_token_table():
    reference, model = both_models(Case("gpt2", "base"))
    batch = make_batch(Case("gpt2", "base"), "none")
    plain = {name: x for name, x in batch.items() if name != "token_type_ids"}
    with torch.no_grad():
        assert_same(model(**batch), reference(**batch), batch["attention_mask"])
        assert (model(**batch).last_hidden_state - model(**plain).last_hidden_state).abs().max() > 0.1


def test_last_token_without_a_padding_id():
    """Without `pad_token_id` transformers reads one text at a time, and its last token."""
    case = Case("gpt2", "sequence-classification")
    folder = checkpoint(case, pad_token_id=None)
    reference, model = theirs(case, folder), mt.load(folder)
    batch = make_batch(case, "none", lengths=(6,))
    with torch.no_grad():
        assert_same(model(**batch), reference(**batch), batch["attention_mask"])


@pytest.mark.parametrize("name", ["position_ids", "input_ids", "token_type_ids"])
@pytest.mark.parametrize("wrong", [-1, 10_000])
def test_ids_out_of_range(name, wrong):
    _, model = both_models(CLASSIFIER)
    batch = make_batch(CLASSIFIER, "none")
    batch["position_ids"] = torch.arange(9).expand(3, -1)
    batch[name] = batch[name].clone()
    batch[name][1, 4] = wrong
    with pytest.raises(InputError, match=rf"{name}: got {wrong} at row 1, position 4, expected 0 to \d+"):
        model(**batch)


@pytest.mark.parametrize(("family", "most"), [("bert", 19), ("gpt2", 17)])
def test_too_many_tokens(family, most):
    _, model = both_models(Case(family, "base"))
    model(torch.ones(1, most, dtype=torch.int64))
    with pytest.raises(InputError, match=rf"got a sequence of {most + 1} tokens.*{most} positions.*truncation=True"):
        model(torch.ones(1, most + 1, dtype=torch.int64))
