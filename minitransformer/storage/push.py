"""A folder with a model to the Hugging Face hub: the files of the model and its card, and nothing else of a run."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from minitransformer.errors import ConfigError, HubError, MiniTransformerError, NotFoundError
from minitransformer.storage.card_paths import for_everyone, local_paths
from minitransformer.storage.files import listed
from minitransformer.storage.hub import SENTENCE_FILES, SMALL_FILES, is_repo_id, version
from minitransformer.storage.resolve import resolve

# Named one by one, so that no row of data, no log with the names of files, and no checkpoint is published by mistake.
PUBLISHED = SMALL_FILES | {
    "README.md", "LICENSE", "config.json", "adapter_config.json", "model.safetensors.index.json",
    "metrics.json", "recipe.json", "environment.json",
}  # fmt: skip


def push(name: str | Path, repo_id: str, *, private: bool = False, message: str | None = None) -> str:
    """Publish the folder `name` as the model `repo_id` ("user/name") on the hub. Returns the address of the commit.

    The user's token comes from HF_TOKEN or `hf auth login`. Of a run, the model, tokenizer, card, pictures, scores,
    recipe and environment are published; neither rows nor checkpoints nor the log. Folders of this machine that the
    card names become the repository's name. A HubError before anything is uploaded if the hub would refuse.
    """
    if not is_repo_id(repo_id) or "/" not in repo_id:
        raise HubError(f"{repo_id!r}: expected user/name, of letters, digits, '-', '_' and '.'")
    folder = resolve(name) if Path(name).is_dir() else None
    if folder is None:
        raise NotFoundError(f"{name}: no such folder; give that of a run or of a saved model")
    files = published(folder)
    with tempfile.TemporaryDirectory(prefix="minitransformer-push-") as place:
        staging = Path(place)
        copy_for_everyone(folder, files, staging, repo_id)
        return _upload(staging, repo_id, private, message or f"Upload {repo_id.partition('/')[2]}")


def published(folder: Path) -> list[str]:
    """The files that are published, by their names inside the folder. A NotFoundError if there is no model."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("**/*") if path.is_file())
    found = [name for name in names if _is_published(name)]
    if not {"config.json", "adapter_config.json"} & set(found) or not any(
        name.endswith(".safetensors") for name in found
    ):
        raise NotFoundError(f"{folder}: no finished model there (config.json and weights); it holds {listed(names)}")
    return found


def _is_published(name: str) -> bool:
    at_the_top = "/" not in name and not name.startswith(".")
    return bool(
        name in PUBLISHED or SENTENCE_FILES.fullmatch(name) or (at_the_top and name.endswith((".safetensors", ".svg")))
    )


def copy_for_everyone(folder: Path, files: list[str], staging: Path, repo_id: str) -> None:
    """Put the files into `staging`, without the names of folders of this machine.

    A ConfigError if one is left, in whichever file: it would tell the world about this machine, and not be found.
    """
    private = local_paths(folder)
    for name in files:
        target = staging / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            target.symlink_to((folder / name).resolve())  # large, and read as it is
            continue
        if name != "README.md":
            shutil.copyfile(folder / name, target)
        else:
            text = for_everyone((folder / name).read_text(encoding="utf-8"), private, repo_id)
            target.write_text(text, encoding="utf-8")
        data = target.read_bytes()
        left = [path for path in private if path.encode() in data]
        if left:
            raise ConfigError(
                f"{folder / name}: it names {left[0]}, a folder of this machine that nobody else has; change it there, "
                f"or for an adapter whose base is a folder: minitransformer merge {folder} --out FOLDER, and push that"
            )


def _upload(folder: Path, repo_id: str, private: bool, message: str) -> str:
    """Check the right to write, make the repository if there is none, and upload."""
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{repo_id}: HF_HUB_OFFLINE is set; unset that to upload")
    if not get_token():
        raise HubError(f"{repo_id}: no token; make one that may write on the hub's page, then `hf auth login`")
    api = HfApi(library_name="minitransformer", library_version=version())
    try:
        _check_right(api.whoami(), repo_id)
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
        return str(commit.commit_url)
    except MiniTransformerError:
        raise
    except Exception as error:  # the hub's errors, and those of the HTTP library below it
        raise HubError(f"{repo_id}: {_explain(error, repo_id)}") from error


def _check_right(me: dict[str, Any], repo_id: str) -> None:
    """A HubError unless this user may write to this repository, as far as the hub's answer says."""
    owner = repo_id.partition("/")[0]
    known = [me.get("name"), *(each.get("name") for each in me.get("orgs") or [])]
    if owner.lower() not in [str(each).lower() for each in known]:
        raise HubError(f"{repo_id}: your token is that of {listed(map(str, known))}, and not of {owner}; name it so")
    token = (me.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise HubError(f"{repo_id}: your token may only read; make one that may write on the hub's page")


def _explain(error: Exception, repo_id: str) -> str:
    """What went wrong and the way out, in one line. Never the error's own text, which could hold a secret."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the hub does not know your token; make a new one, then `hf auth login`"
    if status in (402, 403):
        return f"your token has no right to write to {repo_id.partition('/')[0]}; make one that has"
    if status == 429:
        return "the hub asks for a pause (too many requests); wait, and push again"
    if status is not None:
        return (
            f"the hub refused with HTTP status {status}; try again later. A repository without files may be there now"
        )
    if isinstance(error, ValueError):
        return (
            f"the hub does not take README.md or an answer is no hub's ({type(error).__name__}); check its first lines"
        )
    return f"the hub cannot be reached ({type(error).__name__}); check the network and HF_ENDPOINT, and push again"
