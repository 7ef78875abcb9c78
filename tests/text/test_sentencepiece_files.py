"""SentencePiece files: read as protobuf reads them, equal to sentencepiece itself, and every damage refused."""

import json
import shutil
import subprocess
import sys

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from piece_samples import CLASSES, FOLDERS, PHRASES, REVIEWS, T5, train, write_folder
from sentencepiece import sentencepiece_model_pb2 as protobuf

from minitransformer.errors import MiniTransformerError, TokenizerError
from minitransformer.text import load_tokenizer
from minitransformer.text import sentencepiece as ours
from minitransformer.text.marian import read_splitter

SPACE = "▁"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """name -> path of a model file: with the usual table of characters, and without one."""
    root = tmp_path_factory.mktemp("models")
    train(root / "table.model", REVIEWS[:300], **T5)
    options = {"normalization_rule_name": "identity", "model_type": "bpe", "byte_fallback": True, "vocab_size": 500}
    train(root / "plain.model", REVIEWS[:300], **options)
    return {path.stem: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def folder(models, tmp_path_factory):
    """A folder for a model file that is going to change."""
    folder = tmp_path_factory.mktemp("folder")
    shutil.copy(models["table"], folder / "target.spm")
    (folder / "vocab.json").write_text(json.dumps({"<unk>": 0, "</s>": 1, "▁some": 2, "<pad>": 3}))
    return folder


def proto(path):
    message = protobuf.ModelProto()
    message.ParseFromString(path.read_bytes())
    return message


def load(folder, data, tokenizer_class="T5Tokenizer", name="spiece.model"):
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    return load_tokenizer(folder, tokenizer_class=tokenizer_class)


@pytest.mark.parametrize("name", ["table", "plain"])
def test_read_as_protobuf_reads_it(models, name):
    got, expected = ours.read_model(models[name]), proto(models[name])
    assert [tuple(piece) for piece in got.pieces] == [(p.piece, p.score, p.type) for p in expected.pieces]
    assert got.model_type == expected.trainer_spec.model_type
    assert got.byte_fallback == expected.trainer_spec.byte_fallback
    assert got.charsmap == expected.normalizer_spec.precompiled_charsmap
    assert bool(got.charsmap) == (name == "table")
    assert got.unknown() == expected.trainer_spec.unk_id


pieces = st.lists(
    st.tuples(st.text(min_size=1, max_size=20), st.floats(width=32, allow_nan=False, allow_infinity=False)),
    max_size=20,
    unique_by=lambda piece: piece[0],
)


@settings(max_examples=60, deadline=None)
@given(pieces=pieces, kinds=st.lists(st.sampled_from([1, 3, 4, 5, 6]), min_size=20, max_size=20), choose=st.data())
def test_any_model_is_read_as_protobuf_wrote_it(models, pieces, kinds, choose):
    flags = choose.draw(st.lists(st.sampled_from([None, True, False]), min_size=3, max_size=3))
    message = protobuf.ModelProto()
    for number, (text, score) in enumerate(pieces):
        message.pieces.add(piece=text, score=score, type=kinds[number])
    message.pieces.add(piece="a text longer than any other", type=2)
    message.trainer_spec.pad_id = -1  # ten bytes
    message.trainer_spec.input.append("a field that nobody asks for")
    message.trainer_spec.model_type = choose.draw(st.sampled_from([1, 2]))
    names = ("add_dummy_prefix", "remove_extra_whitespaces")
    for name, flag in zip(names, flags[:2], strict=True):
        if flag is not None:
            setattr(message.normalizer_spec, name, flag)
    if flags[2] is not None:
        message.trainer_spec.byte_fallback = flags[2]
    got = ours.parse_model(models["plain"], message.SerializeToString())
    assert [tuple(piece) for piece in got.pieces] == [(p.piece, p.score, p.type) for p in message.pieces]
    assert got.model_type == message.trainer_spec.model_type
    assert got.byte_fallback == message.trainer_spec.byte_fallback
    assert all(getattr(got, name) == getattr(message.normalizer_spec, name) for name in names)


@pytest.mark.parametrize("rule", ["nmt_nfkc", "identity", "nfkc_cf"])
@pytest.mark.parametrize("whole", [True, False])
def test_pieces_of_sentencepiece_itself(tmp_path, rule, whole):
    """Marian's cutting of a text is SentencePiece's own, with every setting of its normalizer."""
    path = tmp_path / "a.model"
    options = {"add_dummy_prefix": whole, "remove_extra_whitespaces": whole, "split_by_whitespace": whole}
    train(path, REVIEWS[:300], normalization_rule_name=rule, **options)
    theirs, mine = sentencepiece.SentencePieceProcessor(model_file=str(path)), read_splitter(ours.read_model(path))
    texts = [text for text in PHRASES if "\x00" not in text]
    assert len(texts) > 250
    wrong = [text for text in texts if [token for token, _ in mine(text)] != theirs.encode(text, out_type=str)]
    assert not wrong


def test_where_sentencepiece_and_transformers_differ(models, folder):
    """T5 as transformers reads it, which is ours: its ids are sentencepiece's own but in these two cases."""
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(models["table"]))
    mine = load(folder, models["table"].read_bytes())
    assert [mine.encode(text)[:-1] for text in REVIEWS[600:1000]] == [theirs.encode(text) for text in REVIEWS[600:1000]]
    assert (mine.tokens("a</s>")[:-1], theirs.encode("a</s>", out_type=str)[:2]) == (["▁a", "</s>"], ["▁a", "<"])
    two_accents = "e\u0302\u0301"  # SentencePiece composes both of them, tokenizers loses the second
    assert (mine.tokens(two_accents)[:-1], theirs.encode(two_accents, out_type=str)) == (["▁", "ê"], ["▁", "ế"])


@pytest.fixture
def small(models):
    """A model of a few pieces, as protobuf."""
    message = protobuf.ModelProto()
    for text, score, kind in [("<pad>", 0, 3), ("</s>", 0, 3), ("<unk>", 0, 2), (SPACE, -2, 1), (f"{SPACE}a", -1, 1)]:
        message.pieces.add(piece=text, score=score, type=kind)
    message.trainer_spec.model_type = 1
    return message


def test_small_model(small, folder):
    assert load(folder, small).encode("a b") == [4, 3, 2, 1]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_score_that_is_no_number(small, folder, score):
    small.pieces[4].score = score
    with pytest.raises(TokenizerError, match=r"spiece.model: .*the piece '▁a' has the score"):
        load(folder, small)


def test_piece_twice(small, folder):
    small.pieces.add(piece="<pad>")
    with pytest.raises(TokenizerError, match="the piece '<pad>' stands twice"):
        load(folder, small)


@pytest.mark.parametrize("kinds", [[], [2]])
def test_not_one_unknown_piece(small, folder, kinds):
    small.pieces[2].type = 1
    for kind in kinds * 2:
        small.pieces.add(piece=f"<{len(small.pieces)}>", type=kind)
    with pytest.raises(TokenizerError, match="not one of them for the unknown"):
        load(folder, small)


@pytest.mark.parametrize("text", ["", "x" * 513])
def test_piece_of_no_reasonable_length(small, folder, text):
    small.pieces.add(piece=text)
    with pytest.raises(TokenizerError, match=f"piece 5 has {len(text)} characters, expected 1 to 512"):
        load(folder, small)


def test_too_many_pieces(small, folder, monkeypatch):
    monkeypatch.setattr(ours, "MAX_PIECES", 4)
    with pytest.raises(TokenizerError, match="more than 4 pieces"):
        load(folder, small)


@pytest.mark.parametrize(
    ("field", "message"), [("treat_whitespace_as_suffix", "space before a word"), ("escape_whitespaces", "space")]
)
def test_pieces_with_the_space_elsewhere(small, folder, field, message):
    spec = small.trainer_spec if field.startswith("treat") else small.normalizer_spec
    setattr(spec, field, field.startswith("treat"))
    with pytest.raises(TokenizerError, match=message):
        load(folder, small)


@pytest.mark.parametrize("kind", [2, 3, 4])
def test_model_of_another_type(small, folder, kind):
    small.trainer_spec.model_type = kind
    with pytest.raises(TokenizerError, match=r"the model type is .*, expected Unigram \(1\); name the right"):
        load(folder, small)


def test_bpe_without_bytes(small, folder):
    small.trainer_spec.model_type = 2
    with pytest.raises(TokenizerError, match="lacks 256 of the 256 bytes"):
        load(folder, small, "LlamaTokenizer", "tokenizer.model")
    small.trainer_spec.model_type = 1
    with pytest.raises(TokenizerError, match=r"the model type is Unigram \(1\), expected BPE"):
        load(folder, small, "LlamaTokenizer", "tokenizer.model")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 pieces, and not one"),
        (b"\x0a", "byte 1: the file ends inside a number"),
        (b"\x0a\x85", "byte 2: the file ends inside a number"),
        (b"\x0a\x05abc", "byte 2: a field of 5 bytes, and 3 are left"),
        (b"\x0a" + b"\xff" * 9 + b"\x01", "a field of 18446744073709551615 bytes, and 0 are left"),
        (b"\x80" * 11, "a number of more than ten bytes"),
        (b"\x0b", "a field has the wire type 3"),
        (b"\x0f", "a field has the wire type 7"),
        (b"\x02\x00", "a field has the number 0"),
        (b"\x08\x01", "the field piece has the wire type 0, expected 2"),
        (b"\x0a\x03\x0a\x01\xff", "invalid start byte"),
        (b"\x0a\x02\x10\x01", "the field score has the wire type 0, expected 5"),
        (b"\x0a\x06\x0a\x01a\x18\x80\x80", "the file ends inside a number|wire type|bytes, and"),
        (b"\x0a\x05\x0a\x01a\x18\x09", "is of the kind 9, expected 1 to 6"),
        (b"\x0a\x05\x0a\x01a\x18\x00", "is of the kind 0, expected 1 to 6"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git-LFS pointer"),
        (b"IQ== 0\nIg== 1\n", "no SentencePiece model"),
    ],
)
def test_bytes_that_are_no_model(folder, data, message):
    with pytest.raises(TokenizerError, match=message) as error:
        load(folder, data)
    assert str(folder / "spiece.model") in str(error.value)


def test_table_of_characters_that_is_none(small, folder):
    small.normalizer_spec.precompiled_charsmap = b"\xff\xff\xff\x7f" + b"\x01" * 50
    with pytest.raises(TokenizerError, match="its files make no tokenizer"):
        load(folder, small)


def changed(data, choose):
    """The bytes with one thing done to them."""
    place = choose.draw(st.integers(0, len(data)))
    length = choose.draw(st.integers(0, 20))
    new = choose.draw(st.binary(max_size=12) | st.just(b"\xff" * 9 + b"\x01"))
    return data[:place] + new + data[place + length :]


TARGETS = [
    ("plain", "LlamaTokenizer", "tokenizer.model"),
    ("table", "T5Tokenizer", "spiece.model"),
    ("table", "AlbertTokenizer", "spiece.model"),
    ("table", "XLMRobertaTokenizer", "sentencepiece.bpe.model"),
    ("table", "MarianTokenizer", "source.spm"),
]


def loads_or_is_refused(folder, models, choose):
    name, tokenizer_class, file = choose.draw(st.sampled_from(TARGETS))
    data = models[name].read_bytes()
    data = choose.draw(st.binary(max_size=60)) if choose.draw(st.integers(0, 9)) == 0 else changed(data, choose)
    try:
        tokenizer = load(folder, data, tokenizer_class, file)
        ids = tokenizer(["some words, é ﬁ 中 \u0301", "</s>"])["input_ids"]
        tokenizer.decode(ids[0])
    except MiniTransformerError:
        pass


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300, deadline=None)
@given(choose=st.data())
def test_any_bytes_load_or_are_refused(folder, models, choose):
    loads_or_is_refused(folder, models, choose)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=5000, deadline=None)
@given(choose=st.data())
def test_many_bytes_load_or_are_refused(folder, models, choose):
    loads_or_is_refused(folder, models, choose)


BLOCKED = """
import json, sys
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("sentencepiece", "google", "transformers"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
from minitransformer.text import load_tokenizer
texts = json.loads(sys.argv[1])
for name, tokenizer_class in json.loads(sys.argv[2]).items():
    tokenizer = load_tokenizer(Path(sys.argv[3]) / name, tokenizer_class=tokenizer_class)
    print(json.dumps([tokenizer.encode(text) for text in texts] + [tokenizer.target.encode(text) for text in texts]))
"""


def test_without_sentencepiece_and_protobuf(tmp_path):
    names = {name: CLASSES[FOLDERS[name][0]] for name in ("t5", "llama", "marian")}
    texts = PHRASES[:5]
    expected = []
    for name, tokenizer_class in names.items():
        tokenizer = load_tokenizer(write_folder(tmp_path, name), tokenizer_class=tokenizer_class)
        expected.append([encode(text) for encode in (tokenizer.encode, tokenizer.target.encode) for text in texts])
    command = [sys.executable, "-c", BLOCKED, json.dumps(texts), json.dumps(names), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
    shutil.rmtree(tmp_path)
