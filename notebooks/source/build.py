"""Build the notebooks from the lessons beside this file: python notebooks/source/build.py

A lesson is a Python script in jupytext's percent format. Cells with the tag `exercise` go to the students' notebook,
those with the tag `solution` (and the exercise's number) to the solved one, all others to both.
"""

from pathlib import Path

import jupytext
import nbformat

SOURCE = Path(__file__).parent
NOTEBOOKS = SOURCE.parent


def build(source: Path, *, solved: bool) -> str:
    """The notebook of a lesson, as the text of its file: without outputs, the same at each call."""
    lesson = jupytext.read(source)
    other = "exercise" if solved else "solution"
    cells = [cell for cell in lesson.cells if other not in cell.metadata.get("tags", [])]
    for place, cell in enumerate(cells):
        cell.id = f"cell-{place}"
        cell.metadata = {name: value for name, value in cell.metadata.items() if name == "tags"}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    return nbformat.writes(notebook, version=4) + "\n"


def built() -> dict[Path, str]:
    """Every notebook: where it belongs, and what is in it."""
    sources = sorted(SOURCE.glob("[0-9]_*.py"))
    homes = {False: NOTEBOOKS, True: NOTEBOOKS / "solved"}
    return {
        home / f"{source.stem}.ipynb": build(source, solved=solved)
        for solved, home in homes.items()
        for source in sources
    }


if __name__ == "__main__":
    for path, text in built().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(NOTEBOOKS))
