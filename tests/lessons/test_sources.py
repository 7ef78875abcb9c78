"""The lessons' sources: the notebooks are built from them, and their formulas are those of the library."""

import ast
import importlib.util
import inspect
import json
import re
from pathlib import Path

import pytest

import minitransformer as mt
from minitransformer.lessons.book import LESSONS, exercises

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
SOURCES = sorted((NOTEBOOKS / "source").glob("[0-9]_*.py"))


def built():
    spec = importlib.util.spec_from_file_location("build_notebooks", NOTEBOOKS / "source" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.built()


def test_the_notebooks_are_what_the_sources_give():
    notebooks = built()
    there = {*NOTEBOOKS.glob("*.ipynb"), *(NOTEBOOKS / "solved").glob("*.ipynb")}
    assert notebooks.keys() == there
    for path, text in notebooks.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python notebooks/source/build.py"


def test_no_outputs_are_kept():
    for path in NOTEBOOKS.rglob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None


def test_there_is_a_source_for_each_lesson():
    assert [source.stem for source in SOURCES] == [lesson.file for lesson in LESSONS]
    for lesson, source in zip(LESSONS, SOURCES, strict=True):
        assert f"# # {lesson.number}. {lesson.title}\n" in source.read_text(encoding="utf-8")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_each_exercise_is_set_solved_and_checked_in_the_lesson(lesson):
    text = (NOTEBOOKS / "source" / f"{lesson.file}.py").read_text(encoding="utf-8")
    for exercise in exercises(lesson):
        assert f"**Exercise {exercise.number}.**" in text
        assert text.count(f'tags=["solution", "{exercise.number}"]') == 1
        assert text.count(f'mt.check("{exercise.number}"') == 1
    assert text.count('tags=["exercise"]') == len(exercises(lesson))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_formulas_are_those_of_the_library_symbol_for_symbol(lesson):
    """Each `> formula — `name` in file` of a lesson stands so in the docstring of that name in that file."""
    text = (NOTEBOOKS / "source" / f"{lesson.file}.py").read_text(encoding="utf-8")
    quoted = re.findall(r"^# > (.+)$", text, flags=re.MULTILINE)
    assert quoted
    for line in quoted:
        formula, name, file = re.fullmatch(r"(.+) — `(\w+)` in ([\w/]+\.py)", line).groups()
        tree = ast.parse((Path(inspect.getsourcefile(mt)).parent / file).read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if getattr(node, "name", None) == name]
        docstrings = [ast.get_docstring(node) or "" for node in nodes]
        assert any(formula in " ".join(docstring.split()) for docstring in docstrings), line


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_links_and_files_that_a_lesson_names_exist(lesson):
    text = (NOTEBOOKS / "source" / f"{lesson.file}.py").read_text(encoding="utf-8")
    named = re.findall(r"`minitransformer/([\w/]+\.py)`", text)
    assert named, "a lesson says where in the library its subject stands"
    for file in named:
        assert (ROOT / "minitransformer" / file).exists(), file
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (NOTEBOOKS / link).exists(), link
