"""Tokenizers from a SentencePiece file.

Each function takes the folder, its settings, and the special tokens by role. Between the normalizer's table and the
pieces they do what transformers does, not what SentencePiece does: special tokens written out in a text are found, and
white space of any kind separates words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from minitransformer.errors import TokenizerError
from minitransformer.text.legacy import two_types
from minitransformer.text.sentencepiece import CONTROL, NORMAL, SPACE, UNIGRAM, USER_DEFINED, Model, bpe, read_model
from minitransformer.text.settings import Settings, wrong
from minitransformer.text.vocabularies import require

MAX_EXTRA_IDS = 10**5


def t5(folder: Path, settings: Settings, special: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """Unigram as T5 uses it: ``a </s>``, ``a </s> b </s>``; <extra_id_0>, <extra_id_1> ... take the last ids down."""
    model = read_model(folder / "spiece.model").require(UNIGRAM)
    extra = settings.config.get("extra_ids", 100)
    if isinstance(extra, bool) or not isinstance(extra, int) or not 0 <= extra <= MAX_EXTRA_IDS:
        raise wrong(folder, "extra_ids", extra, f"a number from 0 to {MAX_EXTRA_IDS}")
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(extra))]
    pieces = [*model.scored(), *((text, 0.0) for text in sentinels)]
    tokenizer = unigram(model, pieces, model.unknown(), prefix=True)
    require(("eos_token",), special, tokenizer.get_vocab(), model.path)
    eos = special["eos_token"].content
    tokenizer.post_processor = template(tokenizer, ["$A", eos], ["$A", eos, "$B", eos])
    tokens = [*control_tokens(model), *(AddedToken(text, special=True, normalized=False) for text in sentinels)]
    return found_whole(tokenizer, tokens, settings, special)


def albert(folder: Path, settings: Settings, special: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """Unigram as ALBERT uses it: lower-case without accents, as the settings say; around a text as BERT has it."""
    model = read_model(folder / "spiece.model").require(UNIGRAM)
    prefix = settings.flag("add_prefix_space") is not False
    tokenizer = unigram(model, model.scored(), model.unknown(), prefix=prefix)
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.flag("keep_accents"):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.flag("do_lower_case") is not False:
        steps += [normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence([*steps, *model.normalizer()])
    pieces = tokenizer.get_vocab()
    require(("cls_token", "sep_token"), special, pieces, model.path)
    cls, sep = (special[role].content for role in ("cls_token", "sep_token"))
    tokenizer.post_processor = two_types(cls, pieces[cls], sep, pieces[sep])
    return found_whole(tokenizer, control_tokens(model), settings, special)


def xlm_roberta(folder: Path, settings: Settings, special: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """Unigram as XLM-R uses it: ``<s> a </s>``, and ``<s> a </s></s> b </s>`` for a pair.

    The ids are not the file's: its first three pieces give way to <s> <pad> </s> <unk>, and <mask> comes last.
    """
    model = read_model(folder / "sentencepiece.bpe.model").require(UNIGRAM)
    if any(piece.kind == NORMAL for piece in model.pieces[:3]):
        raise TokenizerError(
            f"{model.path}: the first three pieces are {[piece.text for piece in model.pieces[:3]]}, expected the "
            "unknown piece and two control pieces; save the tokenizer as tokenizer.json"
        )
    roles = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    require(roles, special, {token.content for token in special.values()}, model.path)
    bos, pad, eos, unk, mask = (special[role].content for role in roles)
    pieces = [(bos, 0.0), (pad, 0.0), (eos, 0.0), (unk, 0.0), *model.scored()[3:], (mask, 0.0)]
    tokenizer = unigram(model, pieces, 3, prefix=settings.flag("add_prefix_space") is not False)
    tokenizer.post_processor = template(tokenizer, [bos, "$A", eos], [bos, "$A", eos, eos, "$B", eos])
    return found_whole(tokenizer, control_tokens(model), settings, special)


def llama(folder: Path, settings: Settings, special: Mapping[str, AddedToken]) -> tokenizers.Tokenizer:
    """BPE as Llama uses it, down to bytes; nothing is normalized, and add_bos_token, add_eos_token are off if unset.

    A space goes before the text; and again after every special token in it, where the setting legacy is true.
    """
    model = read_model(folder / "tokenizer.model")
    tokenizer = tokenizers.Tokenizer(bpe(model))
    prefix = settings.flag("add_prefix_space") is not False
    scheme = ("always" if settings.flag("legacy") else "first") if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=False)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    roles = [role for role in ("bos_token", "eos_token") if settings.flag(f"add_{role}")]
    require(("unk_token", *roles), special, tokenizer.get_vocab(), model.path)
    bos, eos = ([special[role].content] if role in roles else [] for role in ("bos_token", "eos_token"))
    tokenizer.post_processor = template(tokenizer, [*bos, "$A", *eos], [*bos, "$A", *eos, *bos, "$B", *eos])
    return found_whole(tokenizer, control_tokens(model), settings, special)


def unigram(model: Model, pieces: Sequence[tuple[str, float]], unknown: int, *, prefix: bool) -> tokenizers.Tokenizer:
    """Unigram over these scored pieces: words apart at white space, of each the most probable pieces.

    prefix: a word's first piece begins with the sign for a space, also at the start of the text.
    """
    if len(dict(pieces)) < len(pieces):
        raise TokenizerError(f"{model.path}: a piece has the text of a special token; save as tokenizer.json")
    tokenizer = tokenizers.Tokenizer(models.Unigram(list(pieces), unk_id=unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(model.normalizer())
    scheme = "always" if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme=scheme)
    return tokenizer


def template(tokenizer: tokenizers.Tokenizer, single: list[str], pair: list[str]) -> processors.TemplateProcessing:
    """What goes around a text ($A), and around a pair ($A and $B), all with the type id 0."""
    pieces = tokenizer.get_vocab()
    around = [(text, pieces[text]) for text in dict.fromkeys(single) if text != "$A"]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=around)


def control_tokens(model: Model) -> list[AddedToken]:
    """The pieces that are no part of any text, or that the user asked for: they stay whole."""
    return [
        AddedToken(piece.text, special=piece.kind == CONTROL, normalized=False)
        for piece in model.pieces
        if piece.kind in (CONTROL, USER_DEFINED)
    ]


def found_whole(
    tokenizer: tokenizers.Tokenizer,
    tokens: Sequence[AddedToken],
    settings: Settings,
    special: Mapping[str, AddedToken],
) -> tokenizers.Tokenizer:
    """The tokenizer, which finds these tokens in a text as a whole; those that the settings name follow later."""
    named = {token.content for token in [*special.values(), *settings.added.values(), *settings.extra]}
    tokenizer.add_tokens([token for token in tokens if token.content not in named])
    return tokenizer
