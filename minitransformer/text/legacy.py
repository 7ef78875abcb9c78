"""Tokenizers from vocab.txt, and from vocab.json with merges.txt.

Each function takes the folder, its settings, and the special tokens by role.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from minitransformer.errors import TokenizerError
from minitransformer.text.settings import Settings
from minitransformer.text.vocabularies import read_merges, read_vocab_json, read_vocab_txt, require

# Contractions, words with one sign before them, single digits, runs of signs, line ends, spaces (Bai et al. 2023).
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def wordpiece(folder: Path, settings: Settings, special: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """WordPiece as BERT uses it: lower-case, split at spaces and punctuation, take the longest piece.

    A text becomes ``[CLS] a [SEP]``, a pair ``[CLS] a [SEP] b [SEP]`` with type id 1 from b on.
    """
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
    tokenizer.post_processor = two_types(cls, pieces[cls], sep, pieces[sep])
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def gpt2(folder: Path, settings: Settings, special: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """Byte-level BPE as GPT-2 uses it: a text's bytes, merged in the order learned. Nothing is added around a text."""
    around = [name for name in ("add_bos_token", "add_eos_token") if settings.flag(name)]
    around += [role for role in ("cls_token", "sep_token") if role in special]
    tokenizer = byte_level_bpe(folder, settings, special, roles=("eos_token",))
    if around:
        raise TokenizerError(
            f"{folder}: {', '.join(around)} asks for tokens around a text, of which merges.txt says nothing; "
            "save the tokenizer as tokenizer.json"
        )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def roberta(folder: Path, settings: Settings, special: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """Byte-level BPE as RoBERTa and BART use it: ``<s> a </s>``, and ``<s> a </s></s> b </s>`` for a pair."""
    tokenizer = byte_level_bpe(folder, settings, special, roles=("cls_token", "sep_token", "unk_token"))
    pieces = tokenizer.get_vocab()
    sep, cls = (special[role].content for role in ("sep_token", "cls_token"))
    tokenizer.post_processor = processors.RobertaProcessing(
        (sep, pieces[sep]),
        (cls, pieces[cls]),
        trim_offsets=settings.flag("trim_offsets") is not False,
        add_prefix_space=settings.flag("add_prefix_space") is True,
    )
    return tokenizer


def qwen2(folder: Path, settings: Settings, special: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """Byte-level BPE as Qwen2 uses it: accents composed, digits one by one. Nothing is added around a text."""
    tokenizer = byte_level_bpe(folder, settings, special, roles=("eos_token",))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space") is True, use_regex=False),
        ]
    )
    return tokenizer


def gpt1(folder: Path, settings: Settings, special: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """BPE as GPT uses it: lower-cased words of characters, the last piece of a word marked by ``</w>``."""
    pieces = read_vocab_json(folder / "vocab.json")
    require(("unk_token",), special, pieces, folder / "vocab.json")
    merges = read_merges(folder / "merges.txt", pieces, word_end=True)
    unk = special["unk_token"].content
    tokenizer = tokenizers.Tokenizer(models.BPE(pieces, merges, unk_token=unk, end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return tokenizer


def byte_level_bpe(
    folder: Path, settings: Settings, special: Mapping[str, AddedToken], *, roles: tuple[str, ...]
) -> tokenizers.Tokenizer:
    """Byte-level BPE with the vocabulary that the folder has, which must hold the tokens of these roles."""
    pieces = read_vocab_json(folder / "vocab.json")
    added = {token.content for token in settings.added.values()}
    require(roles, special, pieces.keys() | added, folder / "vocab.json")
    tokenizer = tokenizers.Tokenizer(models.BPE(pieces, read_merges(folder / "merges.txt", pieces)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=settings.flag("add_prefix_space") is True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def two_types(cls: str, cls_id: int, sep: str, sep_id: int) -> processors.TemplateProcessing:
    """``[CLS] a [SEP]``, and ``[CLS] a [SEP] b [SEP]`` with type id 1 from b on."""
    return processors.TemplateProcessing(
        single=[f"{cls}:0", "$A:0", f"{sep}:0"],
        pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
        special_tokens=[(cls, cls_id), (sep, sep_id)],
    )
