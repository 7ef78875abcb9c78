"""The notebooks themselves: where they are, copying them, and the solutions in them."""

import json
import shutil
from pathlib import Path

from minitransformer.errors import InputError, NotFoundError
from minitransformer.lessons.book import LESSONS
from minitransformer.lessons.exercise import Lesson

INSTALLED = Path(__file__).parents[1] / "notebooks"
CHECKOUT = Path(__file__).parents[2] / "notebooks"


def folder() -> Path:
    """The folder of the notebooks: within the installed package, or at the top of a checkout."""
    for found in (INSTALLED, CHECKOUT):
        if (found / "solved").is_dir():
            return found
    raise NotFoundError("the notebooks are missing from this installation; install minitransformer again")


def copy(target: Path, *, solved: bool = False) -> list[Path]:
    """Copy what a student needs to a new or empty folder, and perhaps the solved notebooks. Returns the notebooks."""
    if target.is_symlink() and not target.exists():
        raise InputError(f"{target}: this is a link that leads nowhere; choose a new folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: it is there and not empty; notebooks in it may have answers. Choose a new folder")
    source = folder()
    target.mkdir(parents=True, exist_ok=True)
    notebooks = [f"{lesson.file}.ipynb" for lesson in LESSONS]
    for name in ["README.md", *notebooks, *(f"solved/{name}" for name in notebooks if solved)]:
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copy(source / name, target / name)
    shutil.copytree(source / "pictures", target / "pictures")
    return [target / name for name in notebooks]


def solution_of(lesson: Lesson, number: str) -> str:
    """The code of an exercise's solution, as it stands in the solved notebook."""
    notebook = json.loads((folder() / "solved" / f"{lesson.file}.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if {"solution", number} <= set(cell["metadata"].get("tags", [])):
            return "".join(cell["source"])
    raise NotFoundError(f"{number}: its solution is missing from the notebook of lesson {lesson.number}")
