"""Which number of the output is meant: for every kind of head, the one that transformers' output has there."""

import functools
import tempfile
from pathlib import Path

import lens_models
import oracle
import pytest
import torch
import transformers
from lens_models import PAIR, TARGET, TEXT
from small_readers import reader

import minitransformer as mt
from minitransformer.errors import InputError
from minitransformer.lens.answers import answer_of

LABELS = {"id2label": {"0": "bad", "1": "fair", "2": "go\x1bod"}, "label2id": {"bad": 0, "fair": 1, "go\x1bod": 2}}


@functools.cache
def both(family, architecture):
    """transformers' model and ours, of three labels where it has labels."""
    fields = {} if "QuestionAnswering" in architecture else LABELS  # it would take them for its two ends
    folder = reader(Path(tempfile.mkdtemp(dir=oracle._HOME.name)), family, architecture, **fields)
    return getattr(transformers, architecture).from_pretrained(folder).eval(), mt.load(folder)


def compared(family, architecture, text=TEXT, pair=None, answer=None, position=None):
    """The answer's name and number, and transformers' output."""
    other, model = both(family, architecture)
    reading = model.read(text, pair)
    with torch.no_grad():
        output = model(**reading.batch)
        chosen = answer_of(model, reading, output, answer, position)
        return chosen.name, chosen.of(output), other(**reading.batch), reading


def same(number, expected):
    assert number.shape == (1,)
    assert number.item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_classifiers_label():
    name, number, theirs, _ = compared("bert", "BertForSequenceClassification")
    best = int(theirs.logits.argmax())
    same(number, theirs.logits[0, best])
    assert name == "the logit of " + ("bad", "fair", "go\\x1bod")[best]
    for answer in (2, "go\x1bod"):
        name, number, theirs, _ = compared("bert", "BertForSequenceClassification", answer=answer)
        same(number, theirs.logits[0, 2])
        assert name == "the logit of go\\x1bod"  # printable
    for answer in ("great", 3, -1, True, 0.5):
        with pytest.raises(InputError, match=r"answer: got .*one of bad, fair, go\\x1bod, or its number"):
            compared("bert", "BertForSequenceClassification", answer=answer)
    with pytest.raises(InputError, match="position: this head judges the whole; leave position out"):
        compared("bert", "BertForSequenceClassification", position=1)


def test_a_label_of_one_token():
    name, number, theirs, reading = compared("bert", "BertForTokenClassification", answer="fair", position=-2)
    same(number, theirs.logits[0, -2, 1])
    place = len(reading.tokens) - 2
    assert name == f"the logit of fair at position {place} ({reading.tokens[place]})"
    with pytest.raises(InputError, match=r"position: .*say which: 0 '\[CLS\]', 1 '.*'\[SEP\]'$"):
        compared("bert", "BertForTokenClassification")
    with pytest.raises(InputError, match=f"position: got 99, expected 0 to {place + 1}, or -1 for the last"):
        compared("bert", "BertForTokenClassification", position=99)


def test_replaced_tokens():
    _, number, theirs, _ = compared("electra", "ElectraForPreTraining", position=2)
    same(number, theirs.logits[0, 2])
    with pytest.raises(InputError, match=r"answer: .*leave answer out"):
        compared("electra", "ElectraForPreTraining", answer=1, position=2)


@pytest.mark.parametrize("pair", [None, PAIR])
def test_the_best_span(pair):
    name, number, theirs, reading = compared("bert", "BertForQuestionAnswering", pair=pair)
    start, end = theirs.start_logits[0], theirs.end_logits[0]
    first = reading.second or 0
    sums = {(i, j): (start[i] + end[j]).item() for i in range(first, len(start)) for j in range(i, len(end))}
    begin, last = max(sums, key=sums.get)
    same(number, start[begin] + end[last])
    assert f"from {begin} ({reading.tokens[begin]}) to {last} (" in name
    with pytest.raises(InputError, match="best span"):
        compared("bert", "BertForQuestionAnswering", answer="the")


def test_a_masked_token():
    text = "The [MASK] was good."
    name, number, theirs, reading = compared("bert", "BertForPreTraining", text)
    logits = theirs.prediction_logits[0, reading.tokens.index("[MASK]")]
    same(number, logits.max())
    assert name.endswith(f"at position {reading.tokens.index('[MASK]')} ([MASK])")
    _, number, _, _ = compared("bert", "BertForPreTraining", text, answer=".")
    same(number, logits[both("bert", "BertForPreTraining")[1].tokenizer.backend.token_to_id(".")])
    with pytest.raises(InputError, match=r"position: the text has \[MASK\] 0 times, expected once.*0 '\[CLS\]'"):
        compared("bert", "BertForPreTraining", TEXT)
    with pytest.raises(InputError, match=r"has \[MASK\] 2 times"):
        compared("bert", "BertForPreTraining", "[MASK] or [MASK]")
    _, number, theirs, _ = compared("bert", "BertForPreTraining", "[MASK] or [MASK]", position=1, answer=7)
    same(number, theirs.prediction_logits[0, 1, 7])


def test_a_next_token():
    _, number, theirs, _ = compared("gpt2", "GPT2LMHeadModel")
    same(number, theirs.logits[0, -1].max())
    _, number, theirs, _ = compared("gpt2", "GPT2LMHeadModel", answer=".", position=1)
    same(number, theirs.logits[0, 1, both("gpt2", "GPT2LMHeadModel")[1].tokenizer.encode(".")[0]])


def test_double_heads():
    _, number, theirs, _ = compared("gpt2", "GPT2DoubleHeadsModel", answer=7, position=3)
    same(number, theirs.logits[0, 3, 7])


def test_a_choice_has_one_number():
    other, model = both("bert", "BertForMultipleChoice")
    reading = model.read(TEXT)
    with torch.no_grad():
        output = model(**reading.batch)
        expected = other(**{name: x[:, None] for name, x in reading.batch.items()}).logits[0, 0]
        same(answer_of(model, reading, output, None, None).of(output), expected)


def test_of_two_stacks_the_position_is_the_decoders():
    model = lens_models.loaded("t5")
    reading = model.read(TEXT, target=TARGET)
    with torch.no_grad():
        output = model(**reading.batch)
        chosen = answer_of(model, reading, output, 5, 2)
    same(chosen.of(output), output.logits[0, 2, 5])
    assert chosen.name.endswith(f"at position 2 ({reading.decoder_tokens[2]})")


def test_a_model_without_a_head():
    model = lens_models.loaded("t5-base")
    reading = model.read(TEXT, target=TARGET)
    with pytest.raises(InputError, match=r"no head.*load it with head="):
        answer_of(model, reading, model(**reading.batch), None, None)
