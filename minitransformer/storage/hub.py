"""Models from the Hugging Face hub: the files that are needed and no others, through the hub's own cache."""

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from minitransformer.errors import HubError, MiniTransformerError
from minitransformer.storage.files import quote
from minitransformer.storage.index import read_index
from minitransformer.storage.pickles import PICKLE, PICKLE_INDEX
from minitransformer.storage.weights import INDEX, SINGLE, no_weights

SMALL_FILES = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "tokenizer.model", "source.spm", "target.spm", "target_vocab.json", "modules.json",
    "config_sentence_transformers.json", "preprocessor_config.json", "generation_config.json", "chat_template.jinja",
}  # fmt: skip
SENTENCE_FILES = re.compile(r"[1-9][0-9]?_[A-Za-z]+/(config\.json|model\.safetensors)|sentence_[a-z-]+_config\.json")


def is_repo_id(text: str) -> bool:
    """Whether the hub can have a model of this name: `name` or `organisation/name`."""
    part = r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?"
    sound = re.fullmatch(rf"({part}/)?{part}", text) and len(text) <= 96
    return bool(sound) and ".." not in text and "--" not in text and not text.endswith(".git")


def download(repo_id: str, revision: str | None = None, *, allow_pickle: bool = False) -> Path:
    """The folder with a model's files, downloaded where the cache does not have them; its name is the commit.

    `revision` is a branch, a tag or, to get the same files for ever, a commit. Without a network the cache is used.
    `allow_pickle` also takes pytorch_model.bin, from a repository that has nothing else.
    """
    if not is_repo_id(repo_id):
        raise HubError(f"{repo_id!r}: expected name or organisation/name of a model on the hub")
    if revision is not None and (".." in revision or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", revision)):
        raise HubError(f"{repo_id}: {revision!r} cannot be a revision; expected a branch, a tag or a commit")
    try:
        return _download(repo_id, revision, allow_pickle)
    except MiniTransformerError:
        raise
    except Exception as error:  # the hub's errors, those of the HTTP library below it, full disks
        raise HubError(f"{repo_id}: {_explain(error, repo_id, revision)}") from error


def _download(repo_id: str, revision: str | None, allow_pickle: bool) -> Path:
    """Ask once which commit and which files there are, then fetch by that commit: a branch may move meanwhile.

    The weights come last, so that a folder that has them has everything. Then config.json is asked for once more, by
    `revision`: that fetches nothing, but makes the cache remember what the revision means, for use offline.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    api = HfApi(library_name="minitransformer", library_version=version())
    try:
        info = api.model_info(repo_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        commit, names, online = info.sha or "", {file.rfilename for file in info.siblings or []}, True
    except Exception as error:
        folder = _cached(repo_id, revision, error)
        commit, names, online = folder.name, {path.relative_to(folder).as_posix() for path in folder.rglob("*")}, False
    if not re.fullmatch(r"[0-9a-f]{40}", commit):  # the cache takes it for the name of a folder
        raise HubError(f"{repo_id}: the hub names no commit but {quote(commit)}; check HF_ENDPOINT, or try again later")
    if "config.json" not in names:
        raise HubError(f"{repo_id}: no config.json in this repository; only transformers' layout can be loaded")

    def fetch(name: str, revision: str | None = commit) -> Path:
        try:
            cached = try_to_load_from_cache(repo_id, name, revision=commit)
            path = Path(api.hf_hub_download(repo_id, name, revision=revision, local_files_only=not online))
        except Exception as error:
            raise HubError(f"{repo_id}: {name}: {_explain(error, repo_id, revision)}") from error
        if not isinstance(cached, str):
            _check_digest(path, f"{repo_id}: {name}")
        return path

    folder = fetch("config.json").parent
    where = repo_id if online else f"{repo_id} (the copy in the cache)"
    small = {name for name in names if name in SMALL_FILES or SENTENCE_FILES.fullmatch(name)}
    for name in sorted(small) + _weight_files(where, names, allow_pickle, fetch):
        fetch(name)
    fetch("config.json", revision)
    return folder


def _check_digest(path: Path, what: str) -> None:
    """Compare a file that has just come with the sha256 that the hub gave for it, and remove it if it is another.

    The cache keeps a content under the name that the hub gave it, which for every large file is its sha256. The
    hub's own client compares no more than the length.
    """
    blob = path.parent / os.readlink(path) if path.is_symlink() else path  # without links, the name is not kept
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != blob.name:
        blob.unlink()
        path.unlink()
        raise HubError(f"{what}: it arrived damaged (sha256 {digest}, expected {blob.name}) and was removed; try again")


def _cached(repo_id: str, revision: str | None, reason: Exception) -> Path:
    """The folder in the cache, for when the hub could not be asked; without one, the reason is raised again."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        config = hf_hub_download(repo_id, "config.json", revision=revision, local_files_only=True)
    except Exception:
        raise reason from None
    folder = Path(config).parent
    if not isinstance(reason, OfflineModeIsEnabled):  # who asked to be offline knows
        explained = _explain(reason, repo_id, revision)
        warnings.warn(f"{repo_id}: {explained}. Using the copy in the cache, commit {folder.name}", stacklevel=5)
    return folder


def _weight_files(where: str, names: Iterable[str], allow_pickle: bool, fetch: Callable[[str], Path]) -> list[str]:
    """The names of the files that hold the weights, in the order in which `open_checkpoint` looks for them."""
    if SINGLE in names:
        return [SINGLE]
    if INDEX in names:
        return sorted(set(read_index(fetch(INDEX)).values()))
    if allow_pickle and PICKLE in names:
        return [PICKLE]
    if allow_pickle and PICKLE_INDEX in names:
        return sorted(set(read_index(fetch(PICKLE_INDEX), ".bin").values()))
    raise no_weights(where, names)


def _explain(error: Exception, repo_id: str, revision: str | None) -> str:
    """What went wrong and the way out, in one line. Never the error's own text where that could hold a secret."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # why the file could not be had from the hub
    status = getattr(getattr(error, "response", None), "status_code", None)
    local = "or give a local folder, or `package:NAME`"
    if isinstance(error, errors.GatedRepoError):
        return f"access is restricted; ask for it on the model's page, then set HF_TOKEN, {local}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}; check the branch, tag or commit"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return f"no such folder here and no such public model on the hub; for a private one set HF_TOKEN, {local}"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"it is not in the cache and HF_HUB_OFFLINE is set; unset that to download it, {local}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return f"the cache has only a part of it and the hub cannot be reached; try again with a network, {local}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"the hub does not have this file, which should be there; try another revision, {local}"
    if status == 429:
        return f"the hub asks for a pause (too many requests); wait, or set HF_TOKEN for a higher limit, {local}"
    if status is not None:
        return f"the hub refused with HTTP status {status}; try again later, {local}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}; check free space and permissions of the cache (HF_HOME), {local}"
    if isinstance(error, OSError):
        return f"what arrived is not what the hub announced; try again, {local}"
    return (
        f"the hub cannot be reached, or does not answer as a hub does ({type(error).__name__}); check the network,"
        f" set HF_HUB_OFFLINE=1, {local}"
    )


def version() -> str:
    """The version that the hub is told, as its clients do."""
    try:
        return metadata.version("minitransformer")
    except metadata.PackageNotFoundError:  # used from a folder of sources
        return "unknown"
