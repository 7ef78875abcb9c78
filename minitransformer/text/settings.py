"""What stands beside a vocabulary: tokenizer_config.json, special_tokens_map.json, added_tokens.json, config.json,
and chat templates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from minitransformer.errors import TokenizerError
from minitransformer.text.files import read_json, read_text

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
CHAT_TEMPLATE = "chat_template.jinja"
FURTHER_TEMPLATES = "additional_chat_templates"  # a folder: name.jinja is the template of that name
MAX_TEMPLATE = 10**6  # characters; the longest chat templates in use have some 30,000
UNSET = 1e30  # what stands in a file as model_max_length when nobody set one


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The files of a folder as data.

    config: tokenizer_config.json as it was read. model_config: config.json, likewise.
    special: role -> token, None where a file says null.
    extra: special tokens without a role. added: id -> token outside or on top of the vocabulary, lowest id first.
    chat_template: one, or name -> template where there are several.
    """

    folder: Path
    config: dict[str, Any]
    model_config: dict[str, Any]
    special: dict[str, AddedToken | None]
    extra: list[AddedToken]
    added: dict[int, AddedToken]
    chat_template: str | dict[str, str] | None

    def flag(self, name: str) -> bool | None:
        """A true/false setting; None where it is not set."""
        value = self.config.get(name)
        if value is not None and not isinstance(value, bool):
            raise wrong(self.folder, name, value, "true, false or null")
        return value

    def side(self, name: str, default: str) -> str:
        """The setting `name`, left or right."""
        value = self.config.get(name, default)
        if value not in ("left", "right"):
            raise wrong(self.folder, name, value, "'left' or 'right'")
        return str(value)

    def model_max_length(self) -> int | None:
        """The longest row the model takes, in tokens; None when unset."""
        value = self.config.get("model_max_length", self.config.get("max_len"))  # max_len: its name in old files
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
            raise wrong(self.folder, "model_max_length", value, "a number from 1 up")
        return int(value) if value < UNSET else None

    def model_input_names(self) -> list[str] | None:
        """The tensors that the model takes, by name; None when the file does not say."""
        value = self.config.get("model_input_names")
        if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
            raise wrong(self.folder, "model_input_names", value, "a list of names")
        return value


def read_settings(folder: Path) -> Settings:
    """The settings of the tokenizer in a folder; a file that is not there says nothing."""
    config = read_if_there(folder / "tokenizer_config.json")
    if isinstance(config.get("auto_map"), dict) and "AutoTokenizer" in config["auto_map"]:
        raise TokenizerError(f"{folder}: tokenizer_config.json asks for its own code (auto_map), which is never run")
    if config.get("split_special_tokens"):
        raise TokenizerError(f"{folder}: split_special_tokens is not supported; special tokens in a text stay whole")
    named = config
    if "added_tokens_decoder" not in config:  # files of that age keep the names of special tokens apart
        named = config | read_if_there(folder / "special_tokens_map.json")
    special = {role: special_token(folder, role, named[role]) for role in ROLES if role in named}
    further = named.get("extra_special_tokens") or named.get("additional_special_tokens") or []
    if not isinstance(further, list | dict):
        raise wrong(folder, "extra_special_tokens", further, "a list of tokens")
    values = further.values() if isinstance(further, dict) else further
    extra = [token for value in values if (token := special_token(folder, "extra_special_tokens", value))]
    names = {token.content for token in [*special.values(), *extra] if token}
    added = added_tokens(folder, config, names)
    return Settings(
        folder=folder,
        config=config,
        model_config=read_if_there(folder / "config.json"),
        special=special,
        extra=extra,
        added=added,
        chat_template=chat_template(folder, config),
    )


def read_if_there(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or an empty one where there is no such file."""
    return read_json(path) if path.exists() else {}


def added_tokens(folder: Path, config: dict[str, Any], special: set[str]) -> dict[int, AddedToken]:
    """Tokens by the ids that the files give them; `special`: the texts of those that have a role."""
    if "added_tokens_decoder" in config:
        decoder = config["added_tokens_decoder"]
        if not isinstance(decoder, dict):
            raise wrong(folder, "added_tokens_decoder", decoder, "an object {id: token}")
        entries = [(int(key) if key.isdecimal() and len(key) < 10 else key, token) for key, token in decoder.items()]
    else:
        numbers = read_if_there(folder / "added_tokens.json")
        entries = [(number, {"content": text, "special": text in special}) for text, number in numbers.items()]
    added: dict[int, AddedToken] = {}
    for number, token in entries:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0 or number in added:
            raise wrong(folder, f"the id of the added token {token!r:.60}", number, "a number of its own, from 0 up")
        added[number] = added_token(folder, "added_tokens_decoder", token)
    return dict(sorted(added.items()))


def chat_template(folder: Path, config: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The chat template in a folder's own files, else the one in tokenizer_config.json; name -> template if several."""
    named = {path.stem: read_text(path) for path in sorted((folder / FURTHER_TEMPLATES).glob("*.jinja"))}
    if (folder / CHAT_TEMPLATE).exists():
        named["default"] = read_text(folder / CHAT_TEMPLATE)
    value: Any = named or config.get("chat_template")
    if isinstance(value, list):
        entries = [entry if isinstance(entry, dict) else {} for entry in value]
        value = {str(entry.get("name")): entry.get("template") for entry in entries}
    elif set(named) == {"default"}:
        value = named["default"]
    texts = value.values() if isinstance(value, dict) else [] if value is None else [value]
    if not all(isinstance(text, str) and len(text) <= MAX_TEMPLATE for text in texts):
        expected = f"a template of at most {MAX_TEMPLATE} characters, or a list of {{name, template}}"
        raise wrong(folder, "chat_template", value, expected)
    return value


def chat_template_files(template: str | Mapping[str, str] | None) -> dict[str, bytes]:
    """Name -> content of the files that a chat template, or several, are to be written to."""
    if template is None:
        return {}
    files = {}
    for name, text in ({"default": template} if isinstance(template, str) else template).items():
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise TokenizerError(f"chat_template: the name {name!r:.100} cannot be a file's; rename that template")
        files[CHAT_TEMPLATE if name == "default" else f"{FURTHER_TEMPLATES}/{name}.jinja"] = text.encode()
    return files


def special_token(folder: Path, role: str, value: Any) -> AddedToken | None:
    """A special token as the files name it: by its text, or by an object with its text and flags; null for none."""
    if value is None:
        return None
    fields = value if isinstance(value, dict) else {"content": value}
    return added_token(folder, role, {**fields, "special": True})


def added_token(folder: Path, name: str, fields: Any) -> AddedToken:
    """A token that is found in a text before the text is split, from its file form {content, lstrip, ...}."""
    if not isinstance(fields, dict) or not isinstance(fields.get("content"), str) or not fields["content"]:
        raise wrong(folder, name, fields, "a token: a text that is not empty, or an object with its content")
    flags = {"special": False, "normalized": not fields.get("special", False)}
    flags |= {"lstrip": False, "rstrip": False, "single_word": False}
    flags |= {flag: fields[flag] for flag in flags if flag in fields}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise wrong(folder, name, fields, "flags that are true or false")
    try:
        return AddedToken(fields["content"], **flags)
    except (UnicodeError, TypeError):
        raise wrong(folder, name, fields["content"], "a text of whole characters") from None


def wrong(folder: Path, name: str, value: Any, expected: str) -> TokenizerError:
    """The error for a setting that cannot be."""
    return TokenizerError(f"{folder}, tokenizer settings: {name} is {value!r:.100}, expected {expected}; correct it")
