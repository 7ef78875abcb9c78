"""Marian's tokenizer: two SentencePiece models that cut texts into pieces, and a vocabulary that numbers the pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, models, pre_tokenizers

from minitransformer.errors import TokenizerError
from minitransformer.text.files import read_bytes
from minitransformer.text.normalizer import Normalizer, read_normalizer
from minitransformer.text.sentencepiece import BYTE, NORMAL, SPACE, UNIGRAM, UNKNOWN, USER_DEFINED, Model, read_model
from minitransformer.text.settings import Settings
from minitransformer.text.vocabularies import read_vocab_json, require

ROLES = ("unk_token", "eos_token", "pad_token")
FILES = ("source.spm", "target.spm", "vocab.json")
FURTHER_FILES = ("target_vocab.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One text encoded, with the attributes of a ``tokenizers.Encoding`` that a Tokenizer asks for."""

    ids: list[int]
    tokens: list[str]
    type_ids: list[int]
    offsets: list[tuple[int, int]]
    sequence_ids: list[int | None]


@dataclass(frozen=True, kw_only=True)
class Splitter:
    """What cuts a text into pieces: a normalizer, and a Unigram model whose ids mean nothing here."""

    normalizer: Normalizer
    unigram: tokenizers.Tokenizer

    def __call__(self, text: str) -> Iterator[tuple[str, tuple[int, int]]]:
        """Each piece, as it is spelt whether the model knows it or not, and where in the text it stands."""
        spelt, starts = self.normalizer(text)
        pieces = self.unigram.encode(spelt)
        for token, (first, last) in zip(pieces.tokens, pieces.offsets, strict=True):
            yield token, (starts[first], starts[last])


@dataclass(frozen=True, kw_only=True)
class MarianBackend:
    """What a Tokenizer asks of a ``tokenizers.Tokenizer``, for the texts of one side, source or target.

    splitter: cuts a text into pieces. ids: piece -> id, to encode. pieces: id -> piece, to decode.
    joined: the pieces whose leading space a text that begins with them loses. special: tokens found in a text as a
    whole. files: name -> content, to be written again as they were.
    """

    splitter: Splitter
    ids: Mapping[str, int]
    pieces: Mapping[int, str]
    joined: frozenset[str]
    special: tuple[str, ...]
    unk: str
    eos: str
    files: Mapping[str, bytes]

    @property
    def model(self) -> models.Model:
        """The model that cuts a text into pieces."""
        return self.splitter.unigram.model

    def encode_batch(self, inputs: Sequence[str | tuple[str, str]], add_special_tokens: bool = True) -> list[Row]:
        """The pieces of each text, or of a text and its pair, and eos at the end."""
        return [self._row((text,) if isinstance(text, str) else text, add_special_tokens) for text in inputs]

    encode_batch_fast = encode_batch

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of ids; a special token that is not skipped stands as it is, with a space after it."""
        text, run = "", ""
        for piece in (self.pieces[number] for number in ids):
            if piece not in self.special:
                run += piece.removeprefix(SPACE) if not run and piece in self.joined else piece
            elif not skip_special_tokens:
                text, run = f"{text}{run}{piece} ", ""
        return (text + run).replace(SPACE, " ").strip()

    def token_to_id(self, token: str) -> int | None:
        """The id of a piece; None for what is no piece."""
        return self.ids.get(token)

    def id_to_token(self, number: int) -> str | None:
        """The piece with this id, in the vocabulary to decode with; None if there is none."""
        return self.pieces.get(number)

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """The number of pieces."""
        return len(self.ids)

    def _row(self, texts: tuple[str, ...], add_special_tokens: bool) -> Row:
        found = [(*piece, owner) for owner, text in enumerate(texts) for piece in self._split(text)]
        tokens: list[str] = [token for token, _, _ in found]
        offsets, owners = [offset for _, offset, _ in found], [owner for _, _, owner in found]
        end = [self.eos] if add_special_tokens else []
        tokens += end
        return Row(
            ids=[self.ids.get(token, self.ids[self.unk]) for token in tokens],
            tokens=tokens,
            type_ids=[0] * len(tokens),
            offsets=offsets + [(0, 0)] * len(end),
            sequence_ids=[*owners, *([None] * len(end))],
        )

    def _split(self, text: str) -> Iterator[tuple[str, tuple[int, int]]]:
        """The pieces of a text, and where they stand: special tokens, a language code such as >>fr<<, and the rest."""
        start = 0
        for part in re.split("(" + "|".join(map(re.escape, self.special)) + ")", text):
            if part in self.special:
                yield part, (start, start + len(part))
            else:
                code = len(found.group()) if (found := re.match(r">>.*?<<", part, re.DOTALL)) else 0
                if code:
                    yield part[:code], (start, start + code)
                for token, (first, last) in self.splitter(part[code:]):
                    yield token, (start + code + first, start + code + last)
            start += len(part)


def read_marian(
    folder: Path, settings: Settings, special: Mapping[str, AddedToken]
) -> tuple[MarianBackend, MarianBackend]:
    """What encodes the source texts, and what encodes the target texts.

    source.spm and target.spm cut them into pieces. vocab.json numbers the pieces of both, or, where the setting
    separate_vocabs is true, those of the source, and target_vocab.json those of the target.
    Marian's texts had their quotes and dashes unified (Moses) before this; here they are taken as they are.
    """
    source, target = (read_model(folder / name).require(UNIGRAM) for name in ("source.spm", "target.spm"))
    separate = settings.flag("separate_vocabs") is True
    names = ("vocab.json", "target_vocab.json" if separate else "vocab.json")
    ids, target_ids = (numbered(folder / name, settings, special) for name in names)
    files = {name: folder / name for name in (*FILES, *FURTHER_FILES) if (folder / name).exists()}
    whole = {token.content for token in [*special.values(), *settings.extra, *settings.added.values()]}
    shared = {
        "pieces": {number: piece for piece, number in target_ids.items()},
        "joined": joined(target if separate else source),
        "special": tuple(sorted(whole, key=len, reverse=True)),  # the longest first, where one begins another
        "unk": special["unk_token"].content,
        "eos": special["eos_token"].content,
        "files": {name: read_bytes(path) for name, path in files.items()},
    }
    return (
        MarianBackend(splitter=read_splitter(source), ids=ids, **shared),  # type: ignore[arg-type]
        MarianBackend(splitter=read_splitter(target), ids=target_ids, **shared),  # type: ignore[arg-type]
    )


def numbered(path: Path, settings: Settings, special: Mapping[str, AddedToken]) -> dict[str, int]:
    """Piece -> id, with the added tokens; refuse an id that two pieces have, and a special token that has none."""
    ids = read_vocab_json(path)
    for number, token in settings.added.items():
        if ids.setdefault(token.content, number) != number:
            raise TokenizerError(f"{path}: the added token {token.content!r} should have id {number}, it has another")
    require(ROLES, special, ids, path)
    tokens = [*special.values(), *settings.extra, *settings.added.values()]
    if missing := [token.content for token in tokens if token.content not in ids]:
        raise TokenizerError(f"{path}: the special token {missing[0]!r} is not in the vocabulary; add it there")
    if odd := [token.content for token in tokens if token.lstrip or token.rstrip or token.single_word]:
        raise TokenizerError(f"{settings.folder}: {odd[0]!r} has lstrip, rstrip or single_word, not supported here")
    if len(set(ids.values())) < len(ids):
        raise TokenizerError(f"{path}: several pieces have the same id; download the file again")
    return ids


def read_splitter(model: Model) -> Splitter:
    """What cuts a text into pieces as SentencePiece does with this model."""
    if odd := [piece.text for piece in model.pieces if piece.kind in (USER_DEFINED, BYTE)]:
        raise TokenizerError(f"{model.path}: {odd[0]!r} is a piece of a kind that is not supported beside vocab.json")
    pieces = [("", 0.0)] + [(piece.text, piece.score) for piece in model.pieces if piece.kind == NORMAL]
    unigram = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=0))  # the unknown piece matches no text
    words = not any(SPACE in piece[1:] for piece, _ in pieces)  # no piece is longer than a word
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never", split=words)
    return Splitter(normalizer=read_normalizer(model), unigram=unigram)


def joined(model: Model) -> frozenset[str]:
    """The pieces that lose their leading space at the start of a text."""
    if not (model.add_dummy_prefix or model.remove_extra_whitespaces):
        return frozenset()
    return frozenset(piece.text for piece in model.pieces if piece.kind != UNKNOWN)
