"""A text ends with the token that completes a stop string: the one where transformers' criterion says so."""

import random

import pytest
import small_writers
import torch
from transformers.generation.stopping_criteria import StopStringCriteria

from minitransformer.generation.settings import settings
from minitransformer.generation.stopping import Stopping
from minitransformer.text import load_tokenizer


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """transformers' tokenizer and ours."""
    folder = tmp_path_factory.mktemp("reader")
    tokenizer = small_writers.gpt2_tokenizer()
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return tokenizer, load_tokenizer(folder)


def first_end(criterion, ids):
    """After how many tokens the text ends; None if it does not."""
    return next((n for n in range(1, len(ids) + 1) if bool(criterion(torch.tensor([ids[:n]]))[0])), None)


@pytest.mark.parametrize("seed", range(40))
def test_random_texts(readers, seed):
    """Strings cut out of the text, and some that are not there; they begin and end within tokens."""
    theirs, ours = readers
    rng = random.Random(seed)
    ids = [rng.randrange(2, len(theirs)) for _ in range(12)]
    if seed % 2:
        ids = theirs(rng.choice(small_writers.LINES))["input_ids"][:14]
    text = theirs.decode(ids)
    starts = [rng.randrange(len(text)) for _ in range(3)]
    strings = [part for start in starts if "\ufffd" not in (part := text[start : start + rng.randint(1, 6)])]
    strings = strings or ["nowhere"]
    reference = StopStringCriteria(theirs, strings)
    stopping = Stopping(settings({}, {"stop_strings": strings}), 99, ours)
    expected = first_end(lambda x: reference(x, None).tolist(), ids)
    assert first_end(stopping, ids) == expected, (ids, strings)


def test_each_row_by_itself(readers):
    theirs, ours = readers
    rows = [theirs("the good film was a film")["input_ids"][:6], theirs("it was good, and it is good")["input_ids"][:6]]
    stopping = Stopping(settings({}, {"stop_strings": ["good"]}), 99, ours)
    ends = [first_end(stopping, row) for row in rows]
    assert len(set(ends)) == 2
    for n in range(1, 7):
        assert stopping(torch.tensor([row[:n] for row in rows])) == [end == n for end in ends]


def test_end_tokens_and_the_greatest_length(readers):
    _, ours = readers
    stopping = Stopping(settings({}, {"stop_strings": ["nowhere"], "eos_token_id": [7, 9]}), 4, ours)
    assert stopping(torch.tensor([[5, 7], [7, 5], [5, 9]])) == [True, False, True]
    assert stopping(torch.tensor([[5, 5, 5, 5]])) == [True]
