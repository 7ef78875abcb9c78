"""A tokenizer from the files in a folder."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, models

from minitransformer.errors import NotFoundError, TokenizerError
from minitransformer.text.doubts import contradictions, lost_bytes, unclear_case
from minitransformer.text.files import library_errors, read_json, read_text
from minitransformer.text.kinds import BRACKETS, END_OF_TEXT, KINDS, MARIAN, class_name, class_to_read, has_files
from minitransformer.text.marian import read_marian
from minitransformer.text.settings import ROLES, Settings, read_settings
from minitransformer.text.tokenizer import Tokenizer

# Role -> token in a tokenizer.json of this kind whose class nobody names.
USUAL = {"WordPiece": BRACKETS, "BPE": END_OF_TEXT}


def load_tokenizer(folder: Path, *, tokenizer_class: str | None = None) -> Tokenizer:
    """The tokenizer in a folder: from tokenizer.json, else from the older files of its class.

    The class is the one named in tokenizer_config.json, else in config.json, else `tokenizer_class`, else the one whose
    files are there. It also tells what no file says: the special tokens, and which tensors the model takes.
    Marian's source.spm, target.spm and vocab.json come before a tokenizer.json, which cannot hold all of them.
    What the files leave in doubt becomes a warning, and a line in ``tokenizer.notes``.
    Raises NotFoundError where there are no such files, TokenizerError where one is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder; give the folder with the tokenizer's files")
    settings = read_settings(folder)
    name = class_name(settings, tokenizer_class)
    whole = (folder / "tokenizer.json").exists()
    with library_errors(f"{folder}: its files make no tokenizer"):
        if not whole or (name == MARIAN and has_files(folder, MARIAN)):
            name = class_to_read(folder, name)
        if name == MARIAN and has_files(folder, MARIAN):
            tokenizer = assemble_marian(folder, settings)
        else:
            tokenizer = assemble(folder, settings, name, whole=whole)
    for note in tokenizer.notes:
        warnings.warn(f"{folder}: {note}", stacklevel=2)
    return tokenizer


def assemble(folder: Path, settings: Settings, name: str | None, *, whole: bool) -> Tokenizer:
    """The tokenizer of this class from its vocabulary, its special tokens and its settings. whole: tokenizer.json."""
    kind = KINDS.get(name or "")
    backend = read_tokenizer_json(folder / "tokenizer.json") if whole else build(folder, settings, str(name))
    padding, truncation = backend.padding or {}, backend.truncation or {}
    backend.no_padding()  # a tokenizer.json may pad and truncate every text on its own; here the caller decides
    backend.no_truncation()
    usual = {"pad_token": AddedToken(padding["pad_token"], special=True, normalized=False)} if padding else {}
    usual |= kind.usual if kind else USUAL.get(type(backend.model).__name__, {})
    special = {
        role: token
        for role, token in special_tokens(settings, usual).items()
        if role in settings.special or backend.token_to_id(token.content) is not None
    }
    doubt = contradictions if whole else unclear_case
    notes = doubt(backend, settings) + lost_bytes(backend) + add_tokens(backend, special, settings)
    check_vocabulary(backend, settings.folder)
    return Tokenizer(
        backend,
        special={role: token.content for role, token in special.items()},
        config=settings.config,
        model_max_length=settings.model_max_length(),
        model_input_names=settings.model_input_names() or (kind.model_input_names if kind else None),
        padding_side=settings.side("padding_side", padding.get("direction", kind.padding_side if kind else "right")),
        truncation_side=settings.side("truncation_side", truncation.get("direction", "right")),
        chat_template=settings.chat_template,
        notes=notes,
    )


def assemble_marian(folder: Path, settings: Settings) -> Tokenizer:
    """The tokenizer of the source texts; its ``target`` is that of the target texts."""
    kind = KINDS[MARIAN]
    special = special_tokens(settings, kind.usual)
    source, target = (
        Tokenizer(
            backend,
            special={role: token.content for role, token in special.items()},
            config=settings.config,
            model_max_length=settings.model_max_length() or kind.model_max_length,
            model_input_names=settings.model_input_names() or kind.model_input_names,
            padding_side=settings.side("padding_side", kind.padding_side),
            truncation_side=settings.side("truncation_side", "right"),
        )
        for backend in read_marian(folder, settings, special)
    )
    source.target = target
    return source


def build(folder: Path, settings: Settings, name: str) -> tokenizers.Tokenizer:
    """The tokenizer of this class as its vocabulary files alone tell it."""
    kind = KINDS[name]
    if kind.build is None:
        raise TokenizerError(f"{folder}: {name} without {', '.join(kind.files)}; download the folder again")
    return kind.build(folder, settings, special_tokens(settings, kind.usual))


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """The tokenizer in a tokenizer.json, whatever its kind."""
    added = read_json(path).get("added_tokens") or []
    tokenizer = tokenizers.Tokenizer.from_str(read_text(path))
    for token in added:  # the library gives another id, silently, where one in the file does not fit
        if tokenizer.token_to_id(token["content"]) != token["id"]:
            raise TokenizerError(f"{path}: the added token {token['content']!r} cannot have the id {token['id']!r}")
    return tokenizer


def special_tokens(settings: Settings, usual: Mapping[str, AddedToken]) -> dict[str, AddedToken]:
    """Role -> token: as the files name it, else the usual one."""
    named = dict(usual) | settings.special
    return {role: token for role in ROLES if (token := named.get(role)) is not None}


def add_tokens(backend: tokenizers.Tokenizer, special: Mapping[str, AddedToken], settings: Settings) -> list[str]:
    """Have the added and special tokens found in a text as a whole; one note for each that the vocabulary had not."""
    known = added_texts(backend)
    backend.add_tokens([token for token in settings.added.values() if token.content not in known])
    for number, token in settings.added.items():
        if (got := backend.token_to_id(token.content)) != number:
            raise TokenizerError(
                f"{settings.folder}: the added token {token.content!r} should have id {number}, but gets {got}; "
                "tokenizer_config.json or added_tokens.json belongs to another vocabulary"
            )
    tokens = [*special.values(), *settings.extra]
    new = {token.content for token in tokens if backend.token_to_id(token.content) is None}
    known = added_texts(backend)
    backend.add_tokens([token for token in tokens if token.content not in known])
    return [
        f"the special token {text!r} is not in the vocabulary and got the new id {backend.token_to_id(text)}; "
        "the model needs an embedding for it"
        for text in sorted(new)
    ]


def added_texts(backend: tokenizers.Tokenizer) -> set[str]:
    """The tokens that are found in a text before the text is split."""
    return {token.content for token in backend.get_added_tokens_decoder().values()}


def check_vocabulary(backend: tokenizers.Tokenizer, folder: Path) -> None:
    """Refuse two pieces with one id, and a WordPiece vocabulary without its own unknown token."""
    vocabulary = backend.get_vocab()
    number, count = Counter(vocabulary.values()).most_common(1)[0] if vocabulary else (None, 0)
    if count != 1:
        pieces = [piece for piece, other in vocabulary.items() if other == number]
        raise TokenizerError(f"{folder}: {len(pieces)} pieces have the id {number}: {pieces[:5]}; expected one")
    if isinstance(backend.model, models.WordPiece) and backend.model.unk_token not in vocabulary:
        raise TokenizerError(f"{folder}: the unk_token {backend.model.unk_token!r} is not in the vocabulary")
