"""model.perplexity against the sliding window of transformers' documentation, with transformers' model."""

import math
import os
from pathlib import Path

import pytest
import small_writers
import torch
from small_writers import gpt2, theirs

import minitransformer as mt
from minitransformer.errors import InputError

# Edgar Allan Poe, The Raven, 1845
RAVEN = """Once upon a midnight dreary, while I pondered, weak and weary,
Over many a quaint and curious volume of forgotten lore,
While I nodded, nearly napping, suddenly there came a tapping,
As of some one gently rapping, rapping at my chamber door.
"'T is some visiter," I muttered, "tapping at my chamber door —
Only this, and nothing more."

Ah, distinctly I remember it was in the bleak December,
And each separate dying ember wrought its ghost upon the floor.
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return gpt2(tmp_path_factory.mktemp("gpt2"), n_positions=48, initializer_range=0.1)


@pytest.fixture(scope="module")
def models(folder):
    return mt.load(folder), *theirs(folder)


def sliding_window(model, ids, window, stride):
    """ids [1 T] -> the mean loss of its tokens and how many were foretold, each where it has the most before it."""
    losses, seen = [], 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + window, ids.shape[1])
        part = ids[:, begin:end]
        labels = part.clone()
        labels[:, : part.shape[1] - (end - seen)] = -100
        count = int((labels[:, 1:] != -100).sum())
        if count:
            with torch.no_grad():
                losses.append((float(model(part, labels=labels).loss), count))
        seen = end
        if end == ids.shape[1]:
            break
    count = sum(number for _, number in losses)
    return sum(loss * number for loss, number in losses) / count, count


@pytest.mark.parametrize(
    ("window", "stride"),
    [(48, 1), (48, 24), (48, 48), (48, 7), (None, None), (16, 1), (16, 8), (16, 16), (2, 1), (2, 2), (9, 5), (999, 30)],
)  # fmt: skip
def test_a_sliding_window(models, window, stride):
    ours, model, tokenizer = models
    text = RAVEN if window == 48 or not window else RAVEN[:150]
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    size = min(window or 48, 48, ids.shape[1])
    loss, count = sliding_window(model, ids, size, stride or size // 2)
    found = ours.perplexity(text, window=window, stride=stride)
    assert found.tokens == count
    assert (found.window, found.stride) == (size, stride or size // 2)
    assert found.loss == pytest.approx(loss, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert found.perplexity > 50


@pytest.mark.parametrize("more", [0, 1, 2, 15, 16, 17])
def test_texts_about_as_long_as_a_window(models, more):
    """The last window is short, or there is none."""
    ours, model, tokenizer = models
    ids = tokenizer(RAVEN, return_tensors="pt")["input_ids"][:, : 16 + more]
    text = tokenizer.decode(ids[0])
    assert tokenizer(text, return_tensors="pt")["input_ids"].equal(ids)
    for stride in (1, 8, 16):
        loss, count = sliding_window(model, ids, 16, stride)
        found = ours.perplexity(text, window=16, stride=stride)
        assert found.tokens == count
        assert found.loss == pytest.approx(loss, rel=1e-5)


def test_two_tokens_are_enough(models):
    ours, model, tokenizer = models
    ids = torch.tensor([tokenizer("xy")["input_ids"]])
    assert ids.shape[1] == 2
    expected = -model(ids).logits[0, 0].log_softmax(-1)[ids[0, 1]].item()
    found = ours.perplexity("xy")
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert (found.tokens, found.window, found.stride) == (1, 2, 1)


def test_a_text_shorter_than_the_window_is_read_once(models):
    ours, model, tokenizer = models
    ids = tokenizer(RAVEN[:40], return_tensors="pt")["input_ids"]
    found = ours.perplexity(RAVEN[:40])
    assert found.loss == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)
    assert found.window == ids.shape[1]


@pytest.mark.parametrize("stride", [24, 48])
def test_a_long_text(models, stride):
    if "MINITRANSFORMER_DATA" not in os.environ:
        pytest.skip("MINITRANSFORMER_DATA is not set")
    text = (Path(os.environ["MINITRANSFORMER_DATA"]) / "shakespeare" / "input.txt").read_text("utf-8")[:20000]
    ours, model, tokenizer = models
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    loss, count = sliding_window(model, ids, 48, stride)
    found = ours.perplexity(text, stride=stride)
    assert found.tokens == count
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-4)


def test_special_tokens_are_the_tokenizers_own(tmp_path):
    """A tokenizer that puts a start token before a text has it read, too."""
    from tokenizers import processors

    tokenizer = small_writers.gpt2_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|first|> $A", special_tokens=[("<|first|>", 0)]
    )
    ours = mt.load(gpt2(tmp_path, tokenizer=tokenizer))
    model, tokenizer = theirs(tmp_path)
    ids = tokenizer("What a film", return_tensors="pt")["input_ids"]
    assert ids[0, 0] == 0
    assert ours.perplexity("What a film").loss == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("text", "wrong", "told"),
    [
        ("", {}, r"perplexity: got 0 token\(s\), expected two or more"),
        ("x", {}, r"perplexity: got 1 token\(s\), expected two or more"),
        (RAVEN, {"stride": 0}, "a stride of 0, expected a window of 2 or more, and a stride from 1 to it"),
        (RAVEN, {"stride": -3}, "a stride of -3"),
        (RAVEN, {"window": 1}, "a window of 1 and"),
        (RAVEN, {"window": 0}, "a window of 0 and"),
        (RAVEN, {"window": 8, "stride": 9}, "a window of 8 and a stride of 9"),
        (RAVEN, {"stride": 1.5}, "stride: got 1.5, expected a whole number"),
        (RAVEN, {"window": "all"}, "window: got 'all', expected a whole number"),
        (RAVEN, {"stride": 49}, "a window of 48 and a stride of 49"),
    ],
)
def test_what_cannot_be_scored(models, text, wrong, told):
    with pytest.raises(InputError, match=told):
        models[0].perplexity(text, **wrong)


def test_models_that_cannot_score(folder, tmp_path):
    with pytest.raises(InputError, match="perplexity: got an encoder and a decoder"):
        mt.load(small_writers.t5(tmp_path)).perplexity(RAVEN)
    with pytest.raises(InputError, match="head base, expected causal-lm"):
        mt.load(folder, head="base").perplexity(RAVEN)


def test_dropout_is_off_and_comes_back(tmp_path):
    ours = mt.load(gpt2(tmp_path, resid_pdrop=0.5, embd_pdrop=0.5))
    calm = ours.perplexity(RAVEN)
    assert ours.train().perplexity(RAVEN) == calm
    assert ours.transformer.training
