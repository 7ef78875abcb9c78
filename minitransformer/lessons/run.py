"""Run a notebook from top to bottom, as its reader would, and see what became of its exercises."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minitransformer.errors import DependencyError, InputError, NotFoundError
from minitransformer.lessons.book import exercises, lesson_of
from minitransformer.lessons.check import Verdict

CHILD = [sys.executable, "-m", "minitransformer.lessons.cells"]


@dataclass(frozen=True)
class Outcome:
    """What a run of a notebook gave."""

    verdicts: tuple[Verdict, ...]  # of every exercise of the lessons that it checks
    errors: tuple[str, ...]  # of cells that stopped

    @property
    def right(self) -> bool:
        """Whether every answer is right, and no cell stopped."""
        return not self.errors and all(verdict.state == "right" for verdict in self.verdicts)


def run(path: Path, *, timeout: int = 600) -> Outcome:
    """Run the code of a notebook in a Python of its own, in the notebook's folder. The file stays as it is.

    timeout: seconds that all of it may take. An InputError for what is no notebook, checks nothing, or does not end.
    """
    with tempfile.TemporaryDirectory() as folder:
        cells, told = Path(folder) / "cells.json", Path(folder) / "told.json"
        cells.write_text(json.dumps(_code(path)), encoding="utf-8")
        try:
            subprocess.run(
                [*CHILD, str(cells), str(told)],
                cwd=path.parent,
                timeout=timeout,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{path}: it took more than {timeout} s; is there a loop without an end?") from None
        if not told.exists():
            raise InputError(f"{path}: Python ended in the middle of it; was there enough memory?")
        found = json.loads(told.read_text(encoding="utf-8"))
    checked = {each["number"]: Verdict(**each) for each in found["verdicts"]}
    if not checked:
        raise InputError(f"{path}: it checks no exercise; a lesson's notebook has cells with mt.check(…)")
    return Outcome(tuple(_all_of_the_lessons(checked)), tuple(found["errors"]))


def _code(path: Path) -> list[tuple[int, str]]:
    """The code cells of a notebook, each with its number among all cells, from 1."""
    try:
        import IPython  # noqa: F401 - the other Python needs it
        import nbformat
    except ImportError:
        raise DependencyError("running a notebook needs IPython: pip install 'minitransformer[lessons]'") from None
    if path.is_dir():
        raise InputError(f"{path}: this is a folder; name the notebooks in it, {path}/*.ipynb")
    if not path.is_file():
        raise NotFoundError(f"{path}: there is no such file; `minitransformer lessons copy DIR` gives the notebooks")
    try:
        notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        return [(number, cell.source) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code"]
    except Exception as error:  # of many kinds: whatever a damaged file leads to
        raise InputError(f"{path}: this is no notebook that can be read ({error!s:.100})") from None


def _all_of_the_lessons(checked: dict[str, Verdict]) -> list[Verdict]:
    """The verdicts, and of the same lessons those exercises that were not checked."""
    lessons = sorted({number.partition(".")[0] for number in checked})
    numbers = [exercise.number for lesson in lessons for exercise in exercises(lesson_of(lesson))]
    return [checked.get(number, Verdict(number, "not done yet", "Nothing checks it.")) for number in numbers]
