"""SentencePiece model files, read without the sentencepiece package, and the models in them built anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tokenizers import models, normalizers

from minitransformer.errors import TokenizerError
from minitransformer.text.files import read_bytes
from minitransformer.text.wire import flag, integer, message, raw, real, text

UNIGRAM, BPE = 1, 2  # model types
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # piece types
MAX_PIECES = 2 * 10**6  # some eight times the largest vocabulary in use
MAX_LENGTH = 512  # characters of a piece; SentencePiece itself learns none that are longer
SPACE = "▁"  # stands for a space inside a piece

MODEL = {1: raw("piece"), 2: raw("trainer"), 3: raw("normalizer")}
PIECE = {1: text("text"), 2: real("score"), 3: integer("kind")}
TRAINER = {3: integer("model_type"), 24: flag("treat_whitespace_as_suffix"), 35: flag("byte_fallback")}
NORMALIZER = {
    2: raw("charsmap"),
    3: flag("add_dummy_prefix"),
    4: flag("remove_extra_whitespaces"),
    5: flag("escape_whitespaces"),
}


class Piece(NamedTuple):
    """A piece of text, its score (in a Unigram model its log probability) and what kind of piece it is."""

    text: str = ""
    score: float = 0.0
    kind: int = NORMAL


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a model file says, under its own names. pieces: by id. charsmap: the normalizer's table, empty for none."""

    path: Path
    pieces: Sequence[Piece]
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True

    def unknown(self) -> int:
        """The id of the piece that stands for everything unknown."""
        return next(number for number, piece in enumerate(self.pieces) if piece.kind == UNKNOWN)

    def scored(self) -> list[tuple[str, float]]:
        """Each piece with its score, by id."""
        return [(piece.text, piece.score) for piece in self.pieces]

    def normalizer(self) -> list[normalizers.Normalizer]:
        """The step that rewrites characters by the file's table; none if it has no table."""
        return [normalizers.Precompiled(self.charsmap)] if self.charsmap else []

    def require(self, model_type: int) -> Model:
        """The same model, if it is of that type."""
        if self.model_type != model_type:
            names = {UNIGRAM: "Unigram (1)", BPE: "BPE (2)"}
            got = names.get(self.model_type, self.model_type)
            raise TokenizerError(
                f"{self.path}: the model type is {got}, expected {names[model_type]}; "
                "name the right tokenizer_class in tokenizer_config.json, or save the tokenizer as tokenizer.json"
            )
        return self


def read_model(path: Path) -> Model:
    """The model in a SentencePiece file. Raises TokenizerError where it is damaged, or asks for what is unsupported."""
    data = read_bytes(path)
    try:
        return parse_model(path, data)
    except ValueError as error:
        raise TokenizerError(f"{path}: no SentencePiece model ({error}); download the file again") from None


def parse_model(path: Path, data: bytes) -> Model:
    """The model that these bytes describe; ValueError for any other bytes."""
    pieces: dict[str, Piece] = {}
    said: dict[str, bytes | int] = {}
    for name, value in message(data, MODEL):
        if name == "piece":
            piece = Piece(**dict(message(value, PIECE)))
            check_piece(piece, len(pieces))
            if piece.text in pieces:
                raise ValueError(f"the piece {piece.text!r} stands twice")
            pieces[piece.text] = piece
        else:
            said |= dict(message(value, TRAINER if name == "trainer" else NORMALIZER))
    if sum(piece.kind == UNKNOWN for piece in pieces.values()) != 1:
        raise ValueError(f"{len(pieces)} pieces, and not one of them for the unknown")
    if said.pop("treat_whitespace_as_suffix", False) or not said.pop("escape_whitespaces", True):
        raise ValueError("its pieces do not begin with the space before a word, which is not supported")
    return Model(path=path, pieces=list(pieces.values()), **said)  # type: ignore[arg-type]


def check_piece(piece: Piece, number: int) -> None:
    """Refuse a piece that no SentencePiece model has."""
    if number >= MAX_PIECES:
        raise ValueError(f"more than {MAX_PIECES} pieces")
    if not 0 < len(piece.text) <= MAX_LENGTH:
        raise ValueError(f"piece {number} has {len(piece.text)} characters, expected 1 to {MAX_LENGTH}")
    if not math.isfinite(piece.score):
        raise ValueError(f"the piece {piece.text!r} has the score {piece.score}")
    if not NORMAL <= piece.kind <= BYTE:
        raise ValueError(f"the piece {piece.text!r} is of the kind {piece.kind}, expected {NORMAL} to {BYTE}")


def bpe(model: Model) -> models.BPE:
    """Byte-pair encoding from a model file, which lists the pieces in the order learned, but not from what they merged.

    So every two pieces that together make a third are merged, the earliest third first. A character without a piece
    becomes its bytes in UTF-8, each of them a piece.
    """
    pieces = {piece.text: number for number, piece in enumerate(model.require(BPE).pieces)}
    if missing := [byte for byte in range(256) if f"<0x{byte:02X}>" not in pieces]:
        raise TokenizerError(
            f"{model.path}: the vocabulary lacks {len(missing)} of the 256 bytes, so that texts would lose characters; "
            "save the tokenizer as tokenizer.json"
        )
    return models.BPE(pieces, merges(pieces), fuse_unk=True, byte_fallback=True)


def merges(pieces: Mapping[str, int]) -> list[tuple[str, str]]:
    """The pairs of pieces that make a piece, in the order in which they are merged. pieces: text -> id, by id."""
    return [
        (whole[:place], whole[place:])
        for whole in pieces
        for place in range(1, len(whole))
        if whole[:place] in pieces and whole[place:] in pieces
    ]
