"""TextStream against decoding everything at once: the same text, nothing too early, nothing taken back."""

import random
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from piece_samples import CLASSES, FOLDERS, PHRASES, write_folder
from text_samples import write
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from minitransformer.errors import TokenizerError
from minitransformer.text import TextStream, load_tokenizer, streaming

ENDINGS = [".", "?", "!", ",", "'", "n", "t", "'t", "n't", "'m", "'s", "'ve", "v", "e", "r", "re", "m", "s", "x"]
ENDINGS += ["##'", "##n", "##t", "##x", "[UNK]", "[PAD]"]
# Bytes that make characters, halves of some, and none; words with and without a space; a special token
BYTES = [f"<0x{byte:02X}>" for byte in (*"☃é\u0301😀\u2003 \n".encode(), 0xFF, 0x80)]
FALLBACK = ["<unk>", "<s>", *dict.fromkeys(BYTES), "▁", "▁▁", "▁a", "b", "é", "\u0301", "▁.", "\ufffd", "<0x>"]


@pytest.fixture(scope="module")
def tokenizers(trained, tmp_path_factory):
    """Name -> tokenizer, of every kind of decoder."""
    root = tmp_path_factory.mktemp("streams")
    found = {}
    for name in ("t5", "albert", "xlm-r", "llama", "llama-no-prefix", "qwen2", "gpt1", "marian", "marian-separate"):
        folder = write_folder(root, name)
        found[name] = load_tokenizer(folder, tokenizer_class=CLASSES[FOLDERS[name][0]])
    for name, (model_type, backend, config) in trained.items():
        found[name] = load_tokenizer(write(root / name, model_type, backend, whole=True, config=config))
    endings = Backend(models.WordPiece({piece: number for number, piece in enumerate(ENDINGS)}, unk_token="[UNK]"))
    endings.decoder = decoders.WordPiece(cleanup=False)
    settings = {"clean_up_tokenization_spaces": True}
    found["endings"] = load_tokenizer(write(root / "endings", "bert", endings, whole=True, config=settings))
    pieces = ["Ġ", "ĠĠ", "Ġ'", "x", ".", "'", "n", "t", "â", "[UNK]"]
    clean = Backend(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    clean.decoder = decoders.ByteLevel()
    found["clean"] = load_tokenizer(write(root / "clean", "bert", clean, whole=True, config=settings))
    bytes_too = Backend(models.BPE({piece: number for number, piece in enumerate(FALLBACK)}, [], byte_fallback=True))
    bytes_too.add_special_tokens(["<unk>", "<s>"])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bytes_too.decoder = decoders.Sequence(steps)
    found["fallback"] = load_tokenizer(write(root / "fallback", "llama", bytes_too, whole=True, config={}))
    return found


NAMES = [
    "t5", "albert", "xlm-r", "llama", "llama-no-prefix", "qwen2", "gpt1", "marian", "marian-separate",
    "uncased", "cased", "bytes", "endings", "clean", "fallback",
]  # fmt: skip


def wanted(tokenizer, prompt, ids, skip=True):
    """The text of prompt and ids without what it shares with the text of the prompt."""
    before, whole = (tokenizer.decode(row, skip_special_tokens=skip) for row in (prompt, prompt + ids))
    shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False))))
    return whole[shared:]


def check(tokenizer, prompt, ids, sizes=(1,), skip=True):
    """Stream the ids in steps of these sizes; what was handed out stays a beginning of the whole at every step."""
    stream = TextStream(tokenizer, prompt, skip_special_tokens=skip)
    pieces, place, turn = [], 0, 0
    while place < len(ids):
        step = sizes[turn % len(sizes)]
        pieces.append(stream.add(ids[place : place + step]))
        place, turn = place + step, turn + 1
        window = len(stream._window)
    pieces.append(stream.end())
    assert "".join(pieces) == wanted(tokenizer, prompt, ids, skip)
    assert stream.end() == ""
    return pieces, window if ids else 0


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_all_pieces_are_the_text(tokenizers, name, data):
    tokenizer = tokenizers[name]
    numbers = st.integers(0, len(tokenizer) - 1).filter(
        lambda number: tokenizer.backend.id_to_token(number) is not None
    )
    prompt = data.draw(st.lists(numbers, max_size=12))
    ids = data.draw(st.lists(numbers, max_size=60))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    check(tokenizer, prompt, ids, sizes, skip=data.draw(st.booleans()))


@pytest.mark.parametrize("name", NAMES)
def test_long_random_ids_in_a_window_that_stays_small(tokenizers, name):
    tokenizer, dice = tokenizers[name], random.Random(name)
    some = [number for number in range(len(tokenizer)) if tokenizer.backend.id_to_token(number) is not None]
    for length in (40, 200, 400):
        for skip in (True, False):
            ids = dice.choices(some, k=length)
            _, window = check(tokenizer, ids[: length // 4], ids[length // 4 :], skip=skip)
            assert window <= 4 * streaming.WINDOW


@pytest.mark.parametrize("name", NAMES)
def test_real_texts_come_in_time(tokenizers, name):
    tokenizer = tokenizers[name]
    for text in PHRASES[:40] if name not in ("endings", "clean", "fallback") else []:
        ids = tokenizer.target.encode(text)
        pieces, _ = check(tokenizer, [], ids)
        assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces[:-1])
        late = len(wanted(tokenizer, [], ids)) - len("".join(pieces[:-1]))
        assert late <= 80 if "<0x" in str(tokenizer.tokens(text)) else late <= 20


def stream(tokenizer, tokens, prompt=()):
    ids = [tokenizer.backend.token_to_id(token) for token in tokens]
    out = TextStream(tokenizer, [tokenizer.backend.token_to_id(token) for token in prompt])
    return [*(out.add([number]) for number in ids), out.end()]


def test_bytes_of_sentencepiece_wait_for_the_whole_character(tokenizers):
    snow = ["<0xE2>", "<0x98>", "<0x83>"]
    fallback = tokenizers["fallback"]
    assert stream(fallback, ["▁a", *snow, "b"]) == ["a", "", "", "", "☃b", ""]
    assert stream(fallback, ["▁a", *snow]) == ["a", "", "", "", "☃"]
    assert stream(fallback, snow[1:], prompt=["▁a", snow[0]]) == ["", "", "☃"]
    assert stream(fallback, ["<0xFF>", "b", "b"]) == ["", "\ufffdb", "b", ""]
    assert stream(fallback, ["<0xE2>", "<s>", "<0x98>", "<s>", "<0x83>", "b"]) == ["", "", "", "", "", "☃b", ""]
    assert stream(fallback, ["▁a", "▁", "▁a"]) == ["a", "", "  a", ""]
    assert stream(fallback, ["▁a"], prompt=["▁a"]) == [" a", ""]


def test_bytes_of_a_byte_level_tokenizer(tokenizers):
    gpt, face = tokenizers["bytes"], list("ðŁĺĢ")  # F0 9F 98 80, as byte-level BPE spells them
    assert stream(gpt, [*face, "a"]) == ["", "", "", "😀", "a", ""]
    assert stream(gpt, [*face[:2], "a"]) == ["", "", "\ufffda", ""]
    assert stream(gpt, face[:2]) == ["", "", "\ufffd"]
    assert stream(gpt, face[2:], prompt=["a", *face[:2]]) == ["", "😀", ""]
    assert stream(gpt, ["a", "Ġ", "Ċ", "<|endoftext|>", "a"]) == ["a", " ", "\n", "", "a", ""]


def test_endings_wait_for_what_may_follow(tokenizers):
    endings = tokenizers["endings"]
    for row, whole in {
        ("x", "n't", "x", "."): "xn't x.",
        ("x", "'", "s", "x"): "x's x",
        ("x", "'", "."): "x '.",
        ("x", "n", "##'", "##t"): "xn't",
    }.items():
        assert "".join(stream(endings, row)) == whole
    assert stream(endings, ["x", "x", "x", "."]) == ["", "", "x", "", " x x."]


@pytest.mark.parametrize("bytes_", ["ÿ", "â", "ðŁ", "ÿâ", "Ģ"])
def test_garbage_without_end_comes_out_and_costs_no_more(tokenizers, bytes_):
    gpt = tokenizers["bytes"]
    ids = [gpt.backend.token_to_id(byte) for byte in bytes_] * 150
    pieces, window = check(gpt, [], ids)
    assert len(pieces[-1]) <= 1
    assert window <= 2 * streaming.WINDOW


@pytest.mark.parametrize("name", ["marian", "t5", "llama", "bytes"])
def test_long_white_space(tokenizers, name):
    tokenizer = tokenizers[name]
    space, word = (
        tokenizer.backend.token_to_id(token) for token in (("Ġ", "Ġthe") if name == "bytes" else ("▁", "▁the"))
    )
    for count in (1, 5, 40, 90):
        for prompt in ([], [word], [word, space]):
            check(tokenizer, prompt, [space] * count)
            check(tokenizer, prompt, [space] * count + [word] * 40)
            check(tokenizer, prompt, [word] * 40 + [space] * count + [word])


def test_an_id_without_a_token(tokenizers):
    with pytest.raises(TokenizerError, match="expected an id among"):
        TextStream(tokenizers["bytes"]).add([10**6])
