"""What a tokenizer refuses, case by case: each message names the thing and the way out."""

import pytest
import torch

from minitransformer.errors import TokenizerError
from minitransformer.text import load_tokenizer


@pytest.fixture
def bert(make):
    return load_tokenizer(make("uncased"))


@pytest.fixture
def gpt2(make):
    return load_tokenizer(make("bytes"))


def test_text_that_is_no_str(bert):
    with pytest.raises(TokenizerError, match="text, row 1: got a NoneType"):
        bert(["a", None])
    with pytest.raises(TokenizerError, match="pair, row 0: got a int"):
        bert(["a"], [3])
    with pytest.raises(TokenizerError, match="text: got a set, expected a str or a list of str"):
        bert({"a"})
    with pytest.raises(TokenizerError, match="text: got a bytes"):
        bert(b"a")


def test_no_texts(bert):
    with pytest.raises(TokenizerError, match="empty list, expected at least one text"):
        bert([])


def test_pairs_that_do_not_match(bert):
    with pytest.raises(TokenizerError, match="got 2 texts and 1 pairs"):
        bert(["a", "b"], ["c"])
    with pytest.raises(TokenizerError, match="a str and a list"):
        bert(["a"], "c")


@pytest.mark.parametrize("method", ["__call__", "encodings", "encode", "tokens"])
def test_half_a_surrogate_pair(bert, method):
    with pytest.raises(TokenizerError, match=r"text, row 0: character 2 is '\\ud83d'.*try text.encode") as error:
        getattr(bert, method)("ab\ud83d")
    suggestion = str(error.value).partition("try ")[2]
    assert eval(suggestion, {"text": "ab\ud83d\ude00\ud83d!"}) == "ab😀\ufffd!"


def test_one_text_at_a_time(bert):
    with pytest.raises(TokenizerError, match=r"got a list, expected one str; try tokenizer\(texts\)"):
        bert.encode(["a", "b"])


def test_rows_too_long_for_max_length(bert):
    with pytest.raises(TokenizerError, match="row 1 has 5 tokens, max_length is 4; try truncation=True"):
        bert(["a", "a b c"], padding="max_length", max_length=4)


def test_max_length_without_effect(bert):
    with pytest.raises(TokenizerError, match="no effect alone; add truncation=True"):
        bert("a", max_length=4)


@pytest.mark.parametrize("max_length", [0, -1, True, 2.0, "8"])
def test_max_length_that_is_none(bert, max_length):
    with pytest.raises(TokenizerError, match=r"max_length: got .*, expected a number from 1 up"):
        bert("a", max_length=max_length, truncation=True)


@pytest.mark.parametrize("options", [{"truncation": True}, {"padding": "max_length"}])
def test_no_max_length_anywhere(bert, options):
    with pytest.raises(TokenizerError, match="files set no model_max_length; pass max_length="):
        bert("a", **options)


def test_max_length_without_room(bert):
    with pytest.raises(TokenizerError, match="max_length 3: 3 special tokens leave no room"):
        bert("a", "b", max_length=3, truncation=True)


def test_rows_of_different_length_without_padding(bert):
    with pytest.raises(TokenizerError, match=r"rows have 3 to 4 tokens.*try padding=True"):
        bert(["a", "a b"], padding=False)
    assert bert(["a", "b"], padding=False)["input_ids"].shape == (2, 3)


def test_nothing_to_pad_with(make):
    tokenizer = load_tokenizer(make("bytes", eos_token=None, unk_token=None))
    assert tokenizer(["a", "b"])["input_ids"].shape == (2, 1)
    with pytest.raises(TokenizerError, match="no pad, eos or unk token"):
        tokenizer(["a", "a!"])


@pytest.mark.parametrize(
    "option", [{"padding": "longest"}, {"padding": None}, {"truncation": "only_first"}, {"return_tensors": "np"}]
)
def test_unknown_option_values(bert, option):
    with pytest.raises(TokenizerError, match=f"{next(iter(option))}: got .*, expected"):
        bert("a", **option)


def test_padding_side(bert):
    bert.padding_side = "left"
    assert bert(["a", "a b"])["attention_mask"].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    with pytest.raises(TokenizerError, match="padding_side: got 'top', expected 'left' or 'right'"):
        bert.padding_side = "top"


@pytest.mark.parametrize("ids", [[1, -1], [1, 10**6], [1, 2**70], [1, 2.5], [1, None], [1, [2]], torch.ones(2, 2)])
def test_ids_that_are_none(bert, ids):
    for method in (bert.decode, bert.convert_ids_to_tokens):
        with pytest.raises(TokenizerError, match=r"ids, position [01]: got .*, expected an id among \d+ tokens"):
            method(ids)


def test_ids_that_are_no_list(bert):
    with pytest.raises(TokenizerError, match="ids: got 3, expected a list of ids"):
        bert.decode(3)


def test_what_was_cut_is_told(bert):
    texts = ["a b c d e f", "a b", "a b c d"]
    batch = bert(texts, truncation=True, max_length=5)
    assert batch.truncated == {0: 3, 2: 1}
    assert batch.truncated == {row: len(bert.encode(texts[row])) - 5 for row in (0, 2)}
    assert bert(texts).truncated == {}
    both = bert(texts, texts[::-1], truncation=True, max_length=9)
    assert both.truncated == {0: 4, 2: 4}
    assert both["attention_mask"].sum(1).tolist() == [9, 7, 9]


def test_gpt2_pads_with_eos_and_says_so_in_the_mask(gpt2):
    batch = gpt2(["a", "a!"])
    assert gpt2.pad_token_id is None
    assert batch["input_ids"][0].tolist() == [gpt2.encode("a")[0], gpt2.eos_token_id]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert "token_type_ids" not in batch
