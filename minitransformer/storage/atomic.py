"""Saving so that a crash at any moment leaves the old checkpoint or the new one, never a mixture.

1. Everything is written into a hidden folder and flushed to the disk. Until here nothing that counts has changed.
2. One rename, which the file system does in full or not at all, makes the new files count. A target that is new: the
   hidden folder stood beside it, and becomes it. A target that exists: the hidden folder stood inside it, and becomes
   `target/.minitransformer-saved`. From here on *that* is the checkpoint: `latest` leads every reader to it.
3. In a target that exists, the files are then put in place one by one, config.json last, and `.minitransformer-saved`
   goes. An interruption here costs nothing: the next save to the same target first completes this step.

What else is in the target stays, except weights of an earlier save that the new one would contradict. One process at
a time may save to a target.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minitransformer.errors import MiniTransformerError, NotFoundError, StorageError

SAVED = ".minitransformer-saved"
OUR_WEIGHTS = re.compile(r"model\.safetensors(\.index\.json)?|model-\d{5}-of-\d{5}\.safetensors")


@contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """A folder to write files into; they appear in `target`, all together, when the `with` block ends well.

    When it ends in an exception, `target` is as it was before. The parent of `target` must exist.
    """
    target = Path(os.path.realpath(target))
    if os.path.lexists(target) and not os.path.isdir(target):
        raise MiniTransformerError(f"cannot save to {target}: it is a file, expected a folder; give another name")
    if not os.path.isdir(target.parent):
        raise NotFoundError(f"cannot save to {target}: there is no folder {target.parent}; create it first")
    try:
        finish(target)
        staging = _new_staging(target)
        try:
            yield staging
            _flush(staging)
            _publish(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except MiniTransformerError:
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StorageError(
            f"cannot save to {target}: {error.strerror or error}{where}; what is there can still be loaded."
            " Check free space and permissions, or save elsewhere"
        ) from error


def latest(folder: Path) -> Path:
    """Where the checkpoint of a folder is: the folder itself, or the part of it that an interrupted save left."""
    saved = folder / SAVED
    return saved if os.path.isdir(saved) and not os.path.islink(saved) else folder


def finish(folder: Path) -> None:
    """Put the files of a save in place that counts already (step 3). Can be interrupted and repeated at any point."""
    saved = latest(folder)
    if saved == folder:
        return
    files = sorted(path for path in saved.rglob("*") if path.is_file())
    for file in sorted(files, key=lambda file: file.name == "config.json"):
        _put(file, folder / file.relative_to(saved))
    names = {file.name for file in files if file.parent == saved}
    if any(OUR_WEIGHTS.fullmatch(name) for name in names):
        for path in list(folder.iterdir()):
            if OUR_WEIGHTS.fullmatch(path.name) and path.name not in names:
                path.unlink()
    _sync(folder)
    rubbish = _staging_name(folder)
    os.rename(saved, rubbish)
    shutil.rmtree(rubbish)


def _staging_name(target: Path) -> Path:
    """The hidden folder of this process: inside a target that exists, where we may surely write, else beside it."""
    place = target if os.path.isdir(target) else target.parent
    return place / f".{target.name}.minitransformer-{os.getpid()}"


def _new_staging(target: Path) -> Path:
    """Make the hidden folder, and remove those of processes that were killed."""
    staging = _staging_name(target)
    remove_abandoned(staging.parent, re.escape(target.name))
    staging.mkdir()
    return staging


def remove_abandoned(folder: Path, targets: str = ".+") -> None:
    """Remove what saves that were killed have left in a folder. `targets`: a pattern of names that were saved to."""
    pattern = re.compile(rf"\.{targets}\.minitransformer-(\d+)")
    for path in list(folder.iterdir()):
        match = pattern.fullmatch(path.name)
        if match and not _other_process(int(match[1])):
            shutil.rmtree(path)


def _other_process(number: int) -> bool:
    """Whether another process with this number runs. On Windows nobody can tell without disturbing it: perhaps."""
    if number == os.getpid():
        return False
    try:
        if os.name != "nt":
            os.kill(number, 0)  # signal 0 is delivered to no one; only whether it could be is checked
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _publish(staging: Path, target: Path) -> None:
    """Make the files count (step 2) and put them in place (step 3)."""
    if staging.parent != target:
        os.rename(staging, target)
        _sync(target.parent)
        return
    os.rename(staging, target / SAVED)
    _sync(target)
    try:
        finish(target)
    except KeyboardInterrupt:
        finish(target)
        raise


def _put(file: Path, place: Path) -> None:
    """Replace `place` by `file` in one step and keep `file`: a second name for the same bytes, renamed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    second = place.with_name(f".{place.name}.minitransformer-link")
    second.unlink(missing_ok=True)
    try:
        os.link(file, second)
    except OSError:  # a file system without links
        shutil.copyfile(file, second)
        _sync(second)
    os.replace(second, place)
    second.unlink(missing_ok=True)  # a rename between two names of one file does nothing, and leaves both


def _flush(folder: Path) -> None:
    """Wait until a folder and all in it are on the disk; without that, a power cut can leave empty files."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network drives cannot, and see to it themselves
            raise
    finally:
        os.close(handle)
