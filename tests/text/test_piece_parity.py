"""Tokenizers from SentencePiece files, and of the classes with BPE files, against transformers' AutoTokenizer."""

import copy
import json
import pickle
import shutil

import pytest
from piece_samples import CLASSES, FOLDERS, PHRASES, REVIEWS, write_folder
from text_samples import assert_same, both
from transformers import AutoTokenizer

from minitransformer.text import load_tokenizer

# transformers has no fast Marian tokenizer; its slow one recommends a package, and speaks of long texts in its log
pytestmark = pytest.mark.filterwarnings("ignore:Recommended")
TYPED = {"albert", "albert-cased"}  # ALBERT was trained with token types; transformers 5 gives them when asked to


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """name -> (our tokenizer, theirs, the folder), trained when first asked for."""
    root, there = tmp_path_factory.mktemp("pieces"), {}

    def get(name):
        if name not in there:
            folder = write_folder(root, name)
            there[name] = (*both(folder, CLASSES[FOLDERS[name][0]]), folder)
        return there[name]

    return get


@pytest.fixture(params=FOLDERS)
def name(request):
    return request.param


def rows(tokenizer, *texts, **options):
    """Our ids, unpadded."""
    return [row.ids for row in tokenizer.encodings(*texts, **options)]


def test_ids(written, name):
    ours, theirs, _ = written(name)
    pairs = PHRASES[100:], PHRASES[100:][::-1]
    assert rows(ours, PHRASES) == theirs(PHRASES)["input_ids"]
    assert rows(ours, *pairs) == theirs(*pairs)["input_ids"]
    pairs = PHRASES[150:], PHRASES[150:][::-1]
    assert rows(ours, *pairs, add_special_tokens=False) == theirs(*pairs, add_special_tokens=False)["input_ids"]
    assert ours.notes == ()


def test_tensors(written, name):
    ours, theirs, _ = written(name)
    for pairs in ([], PHRASES[20:60]):
        assert_same(ours, theirs, PHRASES[:40], *[pairs] * bool(pairs), typed=name in TYPED)


@pytest.mark.parametrize("side", ["left", "right"])
def test_cut_ids(written, name, side):
    ours, theirs, folder = written(name)
    ours, theirs = copy.deepcopy(ours), AutoTokenizer.from_pretrained(folder, truncation_side=side)
    ours.truncation_side, theirs.pad_token = side, theirs.pad_token or theirs.eos_token or theirs.unk_token
    for length in (4, 17):
        batch = assert_same(ours, theirs, PHRASES[:60], typed=name in TYPED, truncation=True, max_length=length)
        assert batch["input_ids"].shape[1] == length
    if not name.startswith("marian"):  # which is not made for pairs
        pairs = PHRASES[:60], PHRASES[100:160]
        assert_same(ours, theirs, *pairs, typed=name in TYPED, truncation=True, max_length=21)


def test_decode(written, name):
    ours, theirs, _ = written(name)
    every = list(range(len(ours)))
    for ids in [*theirs(PHRASES[150:])["input_ids"], every, every[::-1]]:
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)


def test_numbers(written, name):
    ours, theirs, _ = written(name)
    roles = ["bos", "eos", "unk", "sep", "cls", "mask"]
    roles += ["pad"] if theirs.pad_token not in (theirs.eos_token, theirs.unk_token) else []
    for role in roles:
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id"), role
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert (ours.padding_side, ours.truncation_side) == (theirs.padding_side, theirs.truncation_side)
    assert ours.model_max_length == (theirs.model_max_length if theirs.model_max_length < 1e30 else None)
    assert ours.model_input_names == theirs.model_input_names or name in TYPED


def test_tokens_and_offsets(written, name):
    ours, theirs, _ = written(name)
    if name.startswith("marian"):  # theirs has no offsets: each token must be found where it is said to be
        for row, text in zip(ours.encodings(REVIEWS[600:650]), REVIEWS[600:650], strict=True):
            found = [
                (text[first:last].strip(), token.lstrip("▁"))
                for (first, last), token in zip(row.offsets, row.tokens, strict=True)
            ]
            assert all(span == token for span, token in found[:-1] if token)
            assert row.sequence_ids == [0] * (len(row.ids) - 1) + [None]
        return
    pairs = PHRASES[150:], PHRASES[150:][::-1]
    assert [row.tokens for row in ours.encodings(*pairs)] == [row.tokens for row in theirs(*pairs).encodings]
    mine = [row.offsets for row in ours.encodings(*pairs)]
    assert mine == theirs(*pairs, return_offsets_mapping=True)["offset_mapping"]


def test_saved(written, name, tmp_path):
    ours, _, folder = written(name)
    ours.save(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    theirs, again = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    ids = rows(ours, PHRASES[150:], PHRASES[150:][::-1])
    assert theirs(PHRASES[150:], PHRASES[150:][::-1])["input_ids"] == ids
    assert rows(again, PHRASES[150:], PHRASES[150:][::-1]) == ids
    assert (again.special, again.model_input_names, again.padding_side) == (
        ours.special,
        ours.model_input_names,
        ours.padding_side,
    )
    assert again.model_max_length == ours.model_max_length
    assert theirs.padding_side == ours.padding_side
    assert theirs.decode(ids[3]) == ours.decode(ids[3]) == again.decode(ids[3])
    targets = rows(ours.target, PHRASES[150:])
    assert theirs(text_target=PHRASES[150:])["input_ids"] == targets
    assert rows(again.target, PHRASES[150:]) == targets


def test_folder_that_transformers_saved(written, name, tmp_path):
    ours, theirs, folder = written(name)
    theirs.save_pretrained(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    again = load_tokenizer(tmp_path, tokenizer_class=CLASSES[FOLDERS[name][0]])
    assert rows(again, PHRASES[150:]) == rows(ours, PHRASES[150:])
    assert again.model_input_names == ours.model_input_names
    assert again.padding_side == ours.padding_side


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
def test_copies(written, name, copied):
    ours, _, _ = written(name)
    twin = copied(ours)
    one, other = (t(PHRASES[:20], text_target=PHRASES[20:40]) for t in (ours, twin))
    assert all(one[key].equal(other[key]) for key in one)
    assert (twin.target is twin) == (ours.target is ours)


def test_labels(written, name):
    ours, theirs, _ = written(name)
    texts, targets = PHRASES[:50], REVIEWS[600:650]
    mine = ours(texts, text_target=targets)
    their = theirs(texts, text_target=targets, padding=True, return_tensors="pt")
    assert mine["labels"].tolist() == their["labels"].tolist()
    assert mine["input_ids"].tolist() == their["input_ids"].tolist()
    cut = ours(texts, text_target=targets, truncation=True, max_length=9, padding="max_length")
    options = {"truncation": True, "max_length": 9, "padding": "max_length", "return_tensors": "pt"}
    assert cut["labels"].tolist() == theirs(texts, text_target=targets, **options)["labels"].tolist()
    lost = [
        sum(max(len(side.encode(text)) - 9, 0) for side, text in ((ours, text), (ours.target, target)))
        for text, target in zip(texts, targets, strict=True)
    ]
    assert cut.truncated == {row: number for row, number in enumerate(lost) if number}


def real_lines(data):
    """Sentences in English and German: some to learn from, others to compare on."""
    english, german = (
        [line for line in (data / f"multi30k/train.{language}").read_text("utf-8").split("\n") if line]
        for language in ("en", "de")
    )
    plays = (data / "shakespeare/input.txt").read_text("utf-8").split("\n")
    news = (data / "ag_news/train.tsv").read_text("utf-8").split("\n")
    return english, german, [*english[-1500:], *german[-1500:], *plays[:1000], *news[:500]]


@pytest.mark.parametrize("name", ["t5", "albert", "xlm-r", "llama", "roberta", "qwen2", "gpt1", "marian"])
def test_real_lines(data, name, tmp_path):
    english, german, lines = real_lines(data)
    folder = write_folder(tmp_path, name, english[:3000], german[:3000])
    ours, theirs = both(folder, CLASSES[FOLDERS[name][0]])
    ids = theirs(lines)["input_ids"]
    assert rows(ours, lines) == ids
    assert rows(ours.target, lines) == theirs(text_target=lines)["input_ids"]
    assert [ours.decode(row) for row in ids] == [theirs.decode(row) for row in ids]
    assert [ours.decode(row, skip_special_tokens=True) for row in ids[::7]] == [
        theirs.decode(row, skip_special_tokens=True) for row in ids[::7]
    ]
    assert_same(ours, theirs, lines[:500], lines[-500:], typed=name in TYPED)


def test_space_before_a_mask(written, tmp_path):
    """Where no file says how <mask> stands in a text, it takes the space before it along."""
    _, _, folder = written("roberta")
    shutil.copytree(folder, tmp_path / "unsaid")
    (tmp_path / "unsaid/tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    unsaid, said = load_tokenizer(tmp_path / "unsaid"), written("roberta")[0]
    assert unsaid.tokens("a <mask> b") == said.tokens("a <mask> b")
    assert "Ġ" not in unsaid.tokens("a <mask> b")
