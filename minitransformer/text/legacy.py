"""Tokenizers from the files that came before tokenizer.json: vocab.txt, and vocab.json with merges.txt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from minitransformer.errors import TokenizerError
from minitransformer.text.files import read_json, read_lines
from minitransformer.text.settings import Settings


def wordpiece(folder: Path, settings: Settings, special: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """WordPiece as BERT uses it, from vocab.txt: lower-case, split at spaces and punctuation, take the longest piece.

    A text becomes ``[CLS] a [SEP]``, a pair ``[CLS] a [SEP] b [SEP]`` with type id 1 from b on.
    `special`: role -> token.
    """
    check_class(settings, ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer"))
    pieces = read_vocab_txt(folder / "vocab.txt")
    require(("unk_token", "cls_token", "sep_token"), special, pieces, folder / "vocab.txt")
    unk, cls, sep = (special[role].content for role in ("unk_token", "cls_token", "sep_token"))
    tokenizer = tokenizers.Tokenizer(models.WordPiece(pieces, unk_token=unk, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars") is not False,
        strip_accents=settings.flag("strip_accents"),  # None: as lowercase says
        lowercase=settings.flag("do_lower_case") is not False,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[f"{cls}:0", "$A:0", f"{sep}:0"],
        pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
        special_tokens=[(cls, pieces[cls]), (sep, pieces[sep])],
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def byte_level_bpe(folder: Path, settings: Settings, special: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """Byte-level BPE as GPT-2 uses it, from vocab.json and merges.txt: a text's bytes, merged in the order learned.

    Nothing is added around a text. `special`: role -> token.
    """
    check_class(settings, ("GPT2Tokenizer",))
    pieces = read_vocab_json(folder / "vocab.json")
    added = {token.content for token in settings.added.values()}
    require(("eos_token",), special, pieces.keys() | added, folder / "vocab.json")
    around = [name for name in ("add_bos_token", "add_eos_token") if settings.flag(name)]
    around += [role for role in ("cls_token", "sep_token") if role in special]
    if around:
        raise TokenizerError(
            f"{folder}: {', '.join(around)} asks for tokens around a text, of which merges.txt says nothing; "
            "save the tokenizer as tokenizer.json"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE(pieces, read_merges(folder / "merges.txt", pieces)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space") is True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def check_class(settings: Settings, known: tuple[str, ...]) -> None:
    """Refuse files of the same names that another tokenizer than these reads in another way."""
    name = str(settings.config.get("tokenizer_class") or known[0]).removesuffix("Fast")
    if name not in known:
        raise TokenizerError(
            f"{settings.folder}: tokenizer_class is {name}, without a tokenizer.json expected {' or '.join(known)}; "
            "save the tokenizer as tokenizer.json"
        )


def require(roles: tuple[str, ...], special: Mapping[str, AddedToken], pieces: Container[str], path: Path) -> None:
    """Refuse a vocabulary without the tokens that have these roles."""
    for role in roles:
        text = special[role].content if role in special else None
        if text not in pieces:
            raise TokenizerError(
                f"{path}: the {role} {text!r} is not in the vocabulary; "
                "name the right one in tokenizer_config.json, or save the tokenizer as tokenizer.json"
            )


def read_vocab_txt(path: Path) -> dict[str, int]:
    """Piece -> id; the id is the number of the piece's line, from 0."""
    lines = read_lines(path)
    pieces = {piece: number for number, piece in enumerate(lines)}
    if len(pieces) < len(lines):
        piece = Counter(lines).most_common(1)[0][0]
        numbers = [number for number, line in enumerate(lines, start=1) if line == piece]
        raise TokenizerError(f"{path}: the piece {piece!r} stands twice, in lines {numbers[0]} and {numbers[1]}")
    return pieces


def read_vocab_json(path: Path) -> dict[str, int]:
    """Piece -> id, as the file says."""
    pieces = read_json(path)
    for piece, number in pieces.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**31:
            raise TokenizerError(f"{path}: the piece {piece!r} has the id {number!r}, expected a number from 0 up")
    return pieces


def read_merges(path: Path, pieces: Container[str]) -> list[tuple[str, str]]:
    """The pairs to merge, one a line, first learned first."""
    merges = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise TokenizerError(
                f"{path}, line {number}: got {line!r}, expected two pieces with one space between them"
            )
        if right.endswith("</w>"):
            raise TokenizerError(
                f"{path}, line {number}: pieces that end in </w> are not byte-level; save as tokenizer.json"
            )
        if missing := [piece for piece in (left, right, left + right) if piece not in pieces]:
            raise TokenizerError(f"{path}, line {number}: the piece {missing[0]!r} is not in vocab.json")
        merges.append((left, right))
    return merges
