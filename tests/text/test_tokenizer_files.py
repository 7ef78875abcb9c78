"""Folders that are empty, damaged, contradictory or hostile."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitransformer.errors import MiniTransformerError, NotFoundError, TokenizerError
from minitransformer.text import files, load_tokenizer


def edit(path, change):
    """Rewrite a JSON file after `change` was applied to what it holds."""
    value = json.loads(path.read_text("utf-8"))
    change(value)
    path.write_text(json.dumps(value))


def test_no_folder(tmp_path):
    with pytest.raises(NotFoundError, match="nowhere: no such folder"):
        load_tokenizer(tmp_path / "nowhere")


def test_nothing_to_load(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(
        NotFoundError,
        match=r"looked for tokenizer.json, vocab.txt, vocab.json with merges.txt, .*; there is vocab",
    ):
        load_tokenizer(tmp_path)


def test_tokenizer_json_comes_first(make, size):
    folder = make("uncased")
    (folder / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n")
    assert len(load_tokenizer(folder)) == size["uncased"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON at line 1, column 1"),
        (b'{"version": "1.0",\n "model": }', "not JSON at line 2, column 11"),
        (b"[1, 2]", "got a JSON list, expected an object"),
        (b"[" * 100_000, "JSON beyond reason"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON beyond reason"),
        (b'{"a": 1, "b": 2, "a": 1}', "the name 'a' stands twice"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git-LFS pointer.*git lfs pull"),
    ],
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"])
def test_damaged_json(make, name, content, message):
    folder = make("bytes", whole=name != "vocab.json")
    (folder / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message) as error:
        load_tokenizer(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("content", ['{"version": "1.0"}', '{"model": 3}', '{"model": {}, "added_tokens": 5}'])
def test_json_that_is_no_tokenizer(make, content):
    folder = make("uncased")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match="its files make no tokenizer") as error:
        load_tokenizer(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "tokenizer_config.json"])
def test_folder_in_place_of_a_file(make, name):
    folder = make("uncased", whole=name != "vocab.txt")
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(TokenizerError, match="got a folder or a special file"):
        load_tokenizer(folder)


def test_special_file_is_not_opened(make):
    folder = make("uncased")
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(TokenizerError, match="got a folder or a special file"):
        load_tokenizer(folder)


def test_file_too_large(make, monkeypatch):
    folder = make("uncased")
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    with pytest.raises(TokenizerError, match=r"tokenizer.json: got .* bytes, expected at most 1000"):
        load_tokenizer(folder)


def test_truncated_tokenizer_json(make):
    path = make("uncased") / "tokenizer.json"
    path.write_text(path.read_text("utf-8")[:5000], "utf-8")
    with pytest.raises(TokenizerError, match="not JSON at line"):
        load_tokenizer(path.parent)


@pytest.mark.parametrize("role", ["unk_token", "cls_token", "sep_token"])
def test_vocab_txt_without_a_token_it_needs(make, role):
    path = make("uncased", whole=False) / "vocab.txt"
    text = f"[{role[:3].upper()}]"
    path.write_bytes(path.read_bytes().replace(text.encode(), b"<mine>"))
    with pytest.raises(TokenizerError, match=rf"the {role} '\[{role[:3].upper()}\]' is not in the vocabulary"):
        load_tokenizer(path.parent)
    edit(path.parent / "tokenizer_config.json", lambda config: config.update({role: "<mine>"}))
    assert getattr(load_tokenizer(path.parent), f"{role}_id") == ["pad", "unk", "cls", "sep"].index(role[:3])


def test_vocab_txt_with_a_piece_twice(make):
    path = make("uncased", whole=False) / "vocab.txt"
    path.write_bytes(path.read_bytes() + b"[SEP]\n")
    with pytest.raises(TokenizerError, match=r"the piece '\[SEP\]' stands twice, in lines 4 and \d+"):
        load_tokenizer(path.parent)


def test_empty_vocab_txt(make):
    path = make("uncased", whole=False) / "vocab.txt"
    path.write_text("")
    with pytest.raises(TokenizerError, match="is not in the vocabulary"):
        load_tokenizer(path.parent)


@pytest.mark.parametrize("number", [-1, 2**31, 1.0, "1", None, True, [1]])
def test_vocab_json_with_an_id_that_is_none(make, number):
    folder = make("bytes", whole=False)
    edit(folder / "vocab.json", lambda vocab: vocab.update({"a": number}))
    with pytest.raises(TokenizerError, match=r"vocab.json: the piece 'a' has the id .*, expected a number from 0 up"):
        load_tokenizer(folder)


@pytest.mark.parametrize("kind", ["uncased", "bytes"])
def test_two_pieces_with_one_id_in_tokenizer_json(make, kind):
    path = make(kind) / "tokenizer.json"
    edit(path, lambda whole: whole["model"]["vocab"].update(a=whole["model"]["vocab"]["b"]))
    with pytest.raises(TokenizerError, match="2 pieces have the id"):
        load_tokenizer(path.parent)


def test_two_pieces_with_one_id_in_vocab_json(make):
    folder = make("bytes", whole=False)
    edit(folder / "vocab.json", lambda vocab: vocab.update(a=vocab["b"]))
    with pytest.raises(TokenizerError, match="2 pieces have the id"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a", "got 'a', expected two pieces with one space between them"),
        ("", "got '', expected two pieces"),
        ("a b c", "got 'a b c', expected two pieces"),
        ("a  b", "got 'a  b', expected two pieces"),
        ("a ", "got 'a ', expected two pieces"),
        ("a zzz", "the piece 'zzz' is not in vocab.json"),
        ("q z", "the piece 'qz' is not in vocab.json"),
        ("a b</w>", "not byte-level"),
    ],
)
def test_bad_merge(make, line, message):
    path = make("bytes", whole=False) / "merges.txt"
    lines = path.read_text("utf-8").split("\n")
    path.write_text("\n".join([*lines[:3], line, *lines[3:]]), "utf-8")
    with pytest.raises(TokenizerError, match=f"merges.txt, line 4: .*{message}"):
        load_tokenizer(path.parent)


def test_bpe_files_of_another_tokenizer(make):
    folder = make("bytes", whole=False)
    edit(folder / "vocab.json", lambda vocab: vocab.update({"<s>": vocab.pop("<|endoftext|>")}))
    with pytest.raises(TokenizerError, match=r"the eos_token '<\|endoftext\|>' is not in the vocabulary"):
        load_tokenizer(folder)
    edit(folder / "tokenizer_config.json", lambda config: config.update(eos_token="<s>", cls_token="<s>"))
    with pytest.raises(
        TokenizerError, match=r"cls_token asks for tokens around a text.*save the tokenizer as tokenizer.json"
    ):
        load_tokenizer(folder)


def test_files_of_a_class_that_is_not_known(make):
    with pytest.raises(TokenizerError, match=r"tokenizer_class is MPNetTokenizer, without a tokenizer.json"):
        load_tokenizer(make("uncased", whole=False, tokenizer_class="MPNetTokenizerFast"))
    assert load_tokenizer(make("uncased", name="whole", tokenizer_class="MPNetTokenizer")).encode("a")


def test_vocabulary_of_another_class(make):
    with pytest.raises(TokenizerError, match=r"the cls_token '<s>' is not in the vocabulary"):
        load_tokenizer(make("bytes", whole=False, tokenizer_class="RobertaTokenizerFast"))
    with pytest.raises(NotFoundError, match=r"looked for tokenizer.json, vocab.json with merges.txt; there is"):
        load_tokenizer(make("uncased", whole=False, name="other", tokenizer_class="RobertaTokenizer"))


@pytest.mark.parametrize("name", ["add_bos_token", "add_eos_token"])
def test_tokens_around_a_text(make, name):
    with pytest.raises(TokenizerError, match=f"{name} asks for tokens around a text"):
        load_tokenizer(make("bytes", whole=False, **{name: True}))


@pytest.mark.parametrize(
    "setting",
    [
        {"do_lower_case": "yes"},
        {"strip_accents": 1},
        {"padding_side": "middle"},
        {"truncation_side": None},
        {"model_max_length": "512"},
        {"model_max_length": 0},
        {"model_max_length": True},
        {"model_max_length": float("nan")},
        {"model_input_names": "input_ids"},
        {"model_input_names": [1]},
        {"cls_token": 3},
        {"cls_token": ""},
        {"cls_token": {"text": "[CLS]"}},
        {"cls_token": {"content": "[CLS]", "lstrip": "no"}},
        {"cls_token": "\ud800"},
        {"extra_special_tokens": 5},
        {"additional_special_tokens": [5]},
        {"added_tokens_decoder": []},
        {"added_tokens_decoder": {"x": {"content": "a"}}},
        {"added_tokens_decoder": {"5": "a"}},
        {"added_tokens_decoder": {"5" * 5000: {"content": "a"}}},
        {"added_tokens_decoder": {"05": {"content": "a"}, "5": {"content": "b"}}},
    ],
)
def test_setting_of_the_wrong_kind(make, setting):
    name = next(iter(setting))
    folder = make("uncased", whole=False, **setting)
    with pytest.raises(TokenizerError, match=r"is .*, expected .*; correct it") as error:
        load_tokenizer(folder)
    assert str(folder) in str(error.value)
    assert name.removeprefix("additional").removeprefix("extra") in str(error.value) or "added token" in str(
        error.value
    )


@pytest.mark.parametrize("value", [None, 1e30, 1e31, float("inf")])
def test_model_max_length_unset(make, value):
    assert load_tokenizer(make("uncased", model_max_length=value)).model_max_length is None


def test_old_name_of_model_max_length(make):
    assert load_tokenizer(make("uncased", max_len=77)).model_max_length == 77


def test_code_is_never_run(make):
    with pytest.raises(TokenizerError, match="asks for its own code"):
        load_tokenizer(make("uncased", auto_map={"AutoTokenizer": ["own.Slow", "own.Fast"]}))


def test_split_special_tokens(make):
    with pytest.raises(TokenizerError, match="split_special_tokens is not supported"):
        load_tokenizer(make("uncased", split_special_tokens=True))


@pytest.mark.parametrize("whole", [True, False])
def test_added_token_with_an_id_it_cannot_have(make, size, whole):
    new = size["uncased"]
    folder = make("uncased", whole=whole, added_tokens_decoder={str(new + 1): {"content": "<new>"}})
    with pytest.raises(TokenizerError, match=f"'<new>' should have id {new + 1}, but gets {new}"):
        load_tokenizer(folder)


def test_added_token_in_tokenizer_json_with_an_id_it_cannot_have(make):
    folder = make("uncased")
    edit(folder / "tokenizer.json", lambda whole: whole["added_tokens"][2].update(id=1700))
    with pytest.raises(TokenizerError, match=r"the added token '\[CLS\]' cannot have the id 1700"):
        load_tokenizer(folder)


def test_word_piece_without_its_unknown_token(make):
    folder = make("uncased")
    edit(folder / "tokenizer.json", lambda whole: whole["model"].update(unk_token="<none>"))
    with pytest.raises(TokenizerError, match="the unk_token '<none>' is not in the vocabulary"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("kind", "name", "value", "used"),
    [
        ("uncased", "do_lower_case", False, True),
        ("uncased", "strip_accents", True, None),
        ("uncased", "tokenize_chinese_chars", False, True),
        ("bytes", "add_prefix_space", True, False),
    ],
)
def test_tokenizer_json_is_believed(make, kind, name, value, used):
    before = load_tokenizer(make(kind)).encode("ÀB 中x")
    with pytest.warns(UserWarning, match=f"says {name}={value}, tokenizer.json {used}; tokenizer.json is believed"):
        tokenizer = load_tokenizer(make(kind, name="other", **{name: value}))
    assert tokenizer.encode("ÀB 中x") == before
    assert len(tokenizer.notes) == 1


def test_cased_vocabulary_that_nobody_calls_cased(make):
    with pytest.warns(UserWarning, match='pieces have upper case.*write {"do_lower_case": false}') as caught:
        tokenizer = load_tokenizer(make("cased", whole=False, config=None))
    assert len(tokenizer.notes) == len(caught) == 1


def test_bytes_that_would_be_lost(make):
    folder = make("bytes", whole=False)
    edit(folder / "vocab.json", lambda vocab: [vocab.pop(piece) for piece in "ñòó"])
    with pytest.warns(UserWarning, match="lacks 3 of the 256 bytes"):
        load_tokenizer(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    """Every place inside a JSON value, as a path of names and indices."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inner:
        yield (*path, name)
        yield from places(part, (*path, name))


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A folder, and the content of a small tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##b": 4}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    tokenizer.enable_padding()
    tokenizer.enable_truncation(8)
    return tmp_path_factory.mktemp("small"), tokenizer.to_str()


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=100, deadline=None)
@given(choose=st.data())
def test_changed_tokenizer_json_loads_or_is_refused(small, choose):
    folder, text = small
    value = json.loads(text)
    *way, last = choose.draw(st.sampled_from(list(places(value))))
    target = value
    for name in way:
        target = target[name]
    if choose.draw(st.booleans()):
        del target[last]
    else:
        target[last] = choose.draw(JSON)
    (folder / "tokenizer.json").write_text(json.dumps(value))
    try:
        tokenizer = load_tokenizer(folder)
        tokenizer(["ab a [SEP]", "é"], ["", "ab"], truncation=True, max_length=6)
        tokenizer.decode([1, 3, 4, 2])
    except MiniTransformerError:
        pass


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
@settings(max_examples=40, deadline=None)
@given(choose=st.data())
def test_any_settings_load_or_are_refused(small, name, choose):
    folder, text = small
    names = ["cls_token", "pad_token", "model_max_length", "padding_side", "added_tokens_decoder", "do_lower_case"]
    names += ["additional_special_tokens", "extra_special_tokens", "model_input_names", "auto_map", "tokenizer_class"]
    value = choose.draw(st.dictionaries(st.sampled_from(names) | st.text(max_size=4), JSON, max_size=4))
    (folder / "tokenizer.json").write_text(text)
    (folder / name).write_text(json.dumps(value))
    try:
        load_tokenizer(folder)("ab a", truncation=True, max_length=6)
    except MiniTransformerError:
        pass
    finally:
        (folder / name).unlink()
