"""Which names of folders of this machine stand in the files of a run, and how a card does without them."""

import re
from collections.abc import Iterable
from pathlib import Path

from minitransformer.storage.files import read_json

ABSOLUTE = re.compile(r"(/|[A-Za-z]:[\\/]|\\\\).+", re.DOTALL)
NAMED = {  # the fields of a run's files that name folders and files
    "data.json": ("name", "given"),
    "adapter_config.json": ("base_model_name_or_path",),
    "config.json": ("_name_or_path",),
}
LOADED = re.compile(r"(?:mt\.load|from_pretrained)\((?P<quote>['\"])(?P<name>.+?)(?P=quote)\)")


def local_paths(folder: Path) -> list[str]:
    """Absolute names that must not be published, longest first: the run's folder, its data, its base, the home."""
    found = {str(folder), str(folder.absolute()), str(folder.resolve()), f"{Path.home()}/"}
    for file, fields in NAMED.items():
        raw = read_json(folder / file) if (folder / file).is_file() else {}
        found.update(text for field in fields for text in _texts(raw.get(field)))
    return sorted((path for path in found if ABSOLUTE.fullmatch(path)), key=len, reverse=True)


def for_everyone(card: str, private: Iterable[str], repo_id: str) -> str:
    """The text of README.md, in which the model is loaded by `repo_id`, and other folders have their last name only."""
    for name in {match["name"] for match in LOADED.finditer(card)}:
        card = card.replace(repr(name), repr(repo_id)).replace(f'"{name}"', f'"{repo_id}"')
        card = re.sub(rf"(?m)^(# |model_name: |- name: ){_as_shown(name)}$", rf"\g<1>{repo_id}", card)
    for path in private:
        last = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
        card = re.sub(_as_shown(path), lambda _, last=last: last, card)  # type: ignore[misc]
    return card


def _as_shown(text: str) -> str:
    """A pattern for a text, in which the card may have put a backslash before any mark."""
    return "".join(rf"\\?{re.escape(char)}" for char in text)


def _texts(value: object) -> list[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _texts(each)]
