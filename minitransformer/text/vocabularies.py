"""The vocabulary files that came before tokenizer.json: vocab.txt, vocab.json and merges.txt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path

from tokenizers import AddedToken

from minitransformer.errors import TokenizerError
from minitransformer.text.files import read_json, read_lines


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


def read_merges(path: Path, pieces: Container[str], *, word_end: bool = False) -> list[tuple[str, str]]:
    """The pairs to merge, one a line, first learned first. word_end: the last piece of a word ends in </w>."""
    merges = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise TokenizerError(
                f"{path}, line {number}: got {line!r}, expected two pieces with one space between them"
            )
        if right.endswith("</w>") and not word_end:
            raise TokenizerError(
                f"{path}, line {number}: pieces that end in </w> are not byte-level; "
                "name the right tokenizer_class in tokenizer_config.json"
            )
        if missing := [piece for piece in (left, right, left + right) if piece not in pieces]:
            raise TokenizerError(f"{path}, line {number}: the piece {missing[0]!r} is not in vocab.json")
        merges.append((left, right))
    return merges
