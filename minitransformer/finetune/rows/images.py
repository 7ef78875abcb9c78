"""Images in folders: one sub-folder for each class, or a table of paths and labels."""

from collections.abc import Iterator
from os.path import isfile, realpath
from pathlib import Path

from minitransformer.errors import DataError
from minitransformer.storage.files import list_folder, quote
from minitransformer.tasks import Row

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def image_folder(folder: Path, *, targets: bool) -> Iterator[Row]:
    """The images of a folder that has a folder for each class; without `targets` they may lie in it directly."""
    if not targets:
        yield from (Row(path=str(path.absolute()), where=str(path)) for path in _images(folder, folder))
    classes = [name for name in list_folder(folder) if not name.startswith(".") and (folder / name).is_dir()]
    for name in classes:
        inner = folder / name
        images = list(_images(inner, folder))
        if not images:
            raise DataError(
                f"{inner}: no images in it; expected {folder}/CLASS/IMAGE, IMAGE one of {', '.join(SUFFIXES)}"
            )
        yield from (Row(path=str(path.absolute()), label=name, where=str(path)) for path in images)


def _images(inner: Path, folder: Path) -> Iterator[Path]:
    """The images in a folder, hidden files left out; a DataError if it, or one of them, is a link out of `folder`."""
    _check_inside(inner, folder, str(inner))
    for name in list_folder(inner):
        path = inner / name
        if path.suffix.lower() in SUFFIXES and not name.startswith(".") and isfile(path):
            _check_inside(path, folder, str(path))
            yield path


def _check_inside(path: Path, folder: Path, where: str) -> None:
    """Raise a DataError if a path, all its links followed, is not in `folder`."""
    if "\0" in str(path) or not Path(realpath(path)).is_relative_to(realpath(folder)):
        raise DataError(f"{where}: {quote(str(path))} leads out of the folder {folder}; put the images into it")


def shape_image(row: Row, folder: Path) -> None:
    """Take a row's path from the folder of its table, which it must not leave. A data set has images themselves."""
    given = row["path"]
    if isinstance(given, dict) and isinstance(given.get("bytes"), bytes):  # how the library datasets writes an image
        row["path"] = given["bytes"]
        return
    if not isinstance(given, str | int | float | list | dict | None):  # an image; what else it may be, the task says
        return
    path = folder / row.text("path")
    _check_inside(path, folder, row.where)
    if not isfile(path):
        raise DataError(f"{row.where}: no image {quote(row['path'])} in the folder {folder}")
    row["path"] = str(path.absolute())
