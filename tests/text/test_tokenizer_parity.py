"""Our tokenizers against transformers' AutoTokenizer, both loaded from the same folder."""

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_samples import LINES, ODD, assert_same, both, write
from transformers import AutoTokenizer

from minitransformer.text import load_tokenizer


def test_odd_texts_and_pairs(folder):
    ours, theirs = both(folder)
    assert_same(ours, theirs, ODD)
    assert_same(ours, theirs, ODD, ODD[::-1])
    assert_same(ours, theirs, ODD, ODD[::-1], add_special_tokens=False)
    assert_same(ours, theirs, "one text")
    assert_same(ours, theirs, "one text", "and its pair")


def test_ordinary_lines(folder):
    ours, theirs = both(folder)
    assert_same(ours, theirs, LINES)
    assert_same(ours, theirs, LINES[:200], LINES[-200:])


@pytest.mark.parametrize(("truncation_side", "padding_side"), [("left", "right"), ("right", "left")])
def test_sides(folder, truncation_side, padding_side):
    settings = {"truncation_side": truncation_side, "padding_side": padding_side, "model_max_length": 12}
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    ours, theirs = both(folder)
    texts, pairs = ODD[:-2] + LINES[:5], (ODD[:-2] + LINES[:5])[::-1]
    assert_same(ours, theirs, texts, truncation=True)
    assert_same(ours, theirs, texts, truncation=True, max_length=4)
    for max_length in (7, 8, 40):
        assert_same(ours, theirs, texts, pairs, truncation=True, max_length=max_length)
    assert_same(ours, theirs, texts, pairs, truncation=True, max_length=8, add_special_tokens=False)
    assert_same(ours, theirs, texts, truncation=True, padding="max_length")


def test_decode(folder):
    ours, theirs = both(folder)
    for ids in theirs(ODD, ODD[::-1])["input_ids"]:
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


@pytest.mark.parametrize("kind", ["cased", "bytes"], indirect=True)
def test_decode_with_clean_up(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clean_up_tokenization_spaces": True}))
    ours, theirs = both(folder)
    ids = theirs(ODD[4])["input_ids"]
    assert ours.decode(ids) == theirs.decode(ids)


def test_one_text_as_lists(folder):
    ours, theirs = both(folder)
    for text, pair in zip(ODD, ODD[::-1], strict=True):
        ids = theirs([text], [pair])["input_ids"][0]
        assert ours.encode(text, pair) == ids
        assert ours.tokens(text, pair) == theirs.convert_ids_to_tokens(ids)
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)


def test_offsets(folder):
    ours, theirs = both(folder)
    mine = [encoding.offsets for encoding in ours.encodings(ODD, ODD[::-1])]
    assert mine == theirs(ODD, ODD[::-1], return_offsets_mapping=True)["offset_mapping"]


def test_numbers(folder):
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"):
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id"), role
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert (ours.padding_side, ours.truncation_side) == (theirs.padding_side, theirs.truncation_side)
    assert ours.model_input_names == theirs.model_input_names
    assert ours.model_max_length == (theirs.model_max_length if theirs.model_max_length < 1e30 else None)


def test_folder_that_transformers_saved(folder, tmp_path):
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    shutil.copy(folder / "config.json", tmp_path / "saved")
    ours, theirs = both(tmp_path / "saved")
    assert_same(ours, theirs, ODD, ODD[::-1])
    assert ours.model_max_length == load_tokenizer(folder).model_max_length


@pytest.mark.parametrize("do_lower_case", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False, None])
@pytest.mark.parametrize("tokenize_chinese_chars", [True, False])
def test_normalizer_settings(make, do_lower_case, strip_accents, tokenize_chinese_chars):
    settings = {"strip_accents": strip_accents, "tokenize_chinese_chars": tokenize_chinese_chars}
    folder = make("cased", whole=False, do_lower_case=do_lower_case, **settings)
    assert_same(*both(folder), ODD, ODD[::-1])


@pytest.mark.parametrize("add_prefix_space", [True, False])
def test_prefix_space(make, add_prefix_space):
    assert_same(*both(make("bytes", whole=False, add_prefix_space=add_prefix_space)), ODD, ODD[::-1])


@pytest.mark.parametrize(("kind", "whole"), [("uncased", False), ("bytes", False), ("uncased", True), ("bytes", True)])
def test_without_settings(make, kind, whole):
    assert_same(*both(make(kind, whole=whole, config=None)), ODD, ODD[::-1])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", ["uncased", "bytes"])
def test_added_tokens_decoder(make, size, kind, whole):
    new = size[kind]
    flags = {"lstrip": True, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    plain = {"lstrip": False, "rstrip": False, "normalized": True, "single_word": True, "special": False}
    decoder = {str(new): {"content": "<speaker>", **flags}, str(new + 1): {"content": "Words", **plain}}
    ours, theirs = both(make(kind, whole=whole, added_tokens_decoder=decoder))
    batch = assert_same(ours, theirs, ["hello  <speaker> words and Words, swords", "<speaker><speaker>"])
    assert new in batch["input_ids"]
    ids = batch["input_ids"][0].tolist()
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["uncased", "bytes"])
def test_added_tokens_json(make, size, kind):
    new = size[kind]
    folder = make(kind, whole=False, pad_token="<fill>")
    (folder / "added_tokens.json").write_text(json.dumps({"<Second>": new + 1, "<fill>": new}))
    ours, theirs = both(folder)
    batch = assert_same(ours, theirs, ["hello <Second> <second> <fill>", "hello"])
    ids = batch["input_ids"][0].tolist()
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.pad_token_id == theirs.pad_token_id == new
    assert batch["input_ids"][1, -1] == new


@pytest.mark.parametrize("kind", ["uncased", "bytes"])
@pytest.mark.parametrize("whole", [True, False])
def test_special_tokens_map(make, kind, whole):
    known, other = {"uncased": ("import", "return"), "bytes": ("Ġimport", "Ġreturn")}[kind]  # pieces that get a role
    folder = make(kind, whole=whole, additional_special_tokens=[other])
    names = {
        "mask_token": {"content": known, "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    ours, theirs = both(folder)
    assert_same(ours, theirs, ["an important   import statement, return it", "Ġimport Ġreturn"])
    assert ours.mask_token_id == theirs.mask_token_id is not None


def test_new_special_token_gets_the_same_id_and_a_warning(make):
    folder = make("bytes", pad_token="<fill>", cls_token="<first>", additional_special_tokens=["<more>"])
    with pytest.warns(UserWarning, match="is not in the vocabulary and got the new id") as caught:
        ours = load_tokenizer(folder)
    theirs = AutoTokenizer.from_pretrained(folder)
    assert len(ours.notes) == len(caught) == 3
    assert (ours.pad_token_id, ours.cls_token_id) == (theirs.pad_token_id, theirs.cls_token_id)
    assert_same(ours, theirs, ["a<fill>b<first>c<more>", "<"])


def test_padding_and_truncation_in_tokenizer_json_are_reset(make):
    folder = make("uncased", model_max_length=30)
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    stored["truncation"] = {"max_length": 5, "strategy": "LongestFirst", "stride": 0, "direction": "Left"}
    stored["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    path.write_text(json.dumps(stored))
    ours, theirs = both(folder)
    batch = assert_same(ours, theirs, ["one two three four five six seven eight nine ten", "one"])
    assert batch["input_ids"].shape[1] > 9
    assert (
        (ours.padding_side, ours.truncation_side) == (theirs.padding_side, theirs.truncation_side) == ("left", "left")
    )


def test_windows_line_ends_change_nothing(make):
    folder = make("uncased", whole=False)
    before = load_tokenizer(folder)(ODD)["input_ids"]
    vocab = folder / "vocab.txt"
    vocab.write_bytes(vocab.read_bytes().replace(b"\n", b"\r\n"))
    assert load_tokenizer(folder)(ODD)["input_ids"].equal(before)


def test_a_line_of_vocab_txt_ends_at_a_line_feed_only(make):
    folder = make("uncased", whole=False, tokenize_chinese_chars=True)
    pieces = (folder / "vocab.txt").read_text().split("\n")
    pieces[10:10] = ["a\x85b", "\u2028", "c\x0bd", "e\rf"]
    (folder / "vocab.txt").write_bytes("\n".join(pieces).encode())
    ours = load_tokenizer(folder)
    assert ours.convert_ids_to_tokens([10, 11, 12, 13, 14]) == pieces[10:15]
    assert len(ours) == len(pieces) - 1


@pytest.mark.parametrize("kind", ["minilm", "bytes"], indirect=True)
def test_real_lines(folder, data):
    lines = [line.partition("\t")[2] for line in (data / "movie_reviews/reviews.tsv").read_text("utf-8").split("\n")]
    lines += (data / "multi30k/val.de").read_text("utf-8").split("\n")
    lines += (data / "shakespeare/input.txt").read_text("utf-8").split("\n")[:2000]
    assert len(lines) > 10_000
    ours, theirs = both(folder)
    assert [encoding.ids for encoding in ours.encodings(lines)] == theirs(lines)["input_ids"]
    assert_same(ours, theirs, lines[:1000], lines[-1000:])


@pytest.fixture(scope="session")
def loaded(trained, tmp_path_factory):
    """(kind, whole) -> our and their tokenizer."""

    def load(kind, whole):
        model_type, tokenizer, config = trained[kind]
        folder = tmp_path_factory.mktemp(kind) / str(whole)
        return both(write(folder, model_type, tokenizer, whole=whole, config=config))

    return {(kind, whole): load(kind, whole) for kind in trained for whole in (True, False)}


@pytest.mark.parametrize("kind", ["uncased", "cased", "bytes"])
@pytest.mark.parametrize("whole", [True, False], ids=["tokenizer.json", "legacy"])
@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5), max_length=st.integers(6, 30))
def test_any_text(loaded, kind, whole, rows, max_length):
    texts, pairs = (list(column) for column in zip(*rows, strict=True))
    ours, theirs = loaded[kind, whole]
    assert_same(ours, theirs, texts)
    assert_same(ours, theirs, texts, pairs, truncation=True, max_length=max_length)
