"""`minitransformer lessons`: what a student and a lecturer meet."""

import json
import re
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from minitransformer.cli import main
from minitransformer.lessons.book import LESSONS, exercises


@pytest.fixture
def here(monkeypatch, capsys):
    """here("list") -> exit code, output, errors."""

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", ["minitransformer", "lessons", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        told = capsys.readouterr()
        return exit.value.code or 0, told.out, told.err

    return run_here


@pytest.fixture
def notebook(tmp_path):
    """notebook("a cell", "another") -> the path of a notebook with these cells."""

    def write(*cells):
        path = tmp_path / "mine.ipynb"
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        nbformat.write(made, path)
        return path

    return write


def test_list_names_every_lesson_and_exercise(here):
    code, out, err = here("list")
    assert (code, err) == (0, "")
    for lesson in LESSONS:
        assert f"{lesson.number}. {lesson.title}" in out
        for exercise in exercises(lesson):
            assert f"{exercise.number}  {exercise.asks}" in out
    code, out, _ = here("list", "--json")
    assert [each["title"] for each in json.loads(out)] == [lesson.title for lesson in LESSONS]


@pytest.mark.parametrize("solved", [False, True])
def test_copy_gives_a_student_everything_once(here, tmp_path, solved):
    folder = tmp_path / "new" / "lessons"
    code, out, _ = here("copy", folder, *["--solved"] * solved)
    assert code == 0
    names = [f"{lesson.file}.ipynb" for lesson in LESSONS]
    assert sorted(path.name for path in folder.glob("*.ipynb")) == names
    assert all(name in out for name in names)
    assert (folder / "solved").exists() == solved
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for lesson in LESSONS:
        assert f"pictures/{lesson.file}.png" in readme
        assert (folder / "pictures" / f"{lesson.file}.png").stat().st_size > 5_000
    for link in re.findall(r"\]\(([^)]+)\)", readme):
        assert (folder / link).exists(), link

    (folder / names[0]).write_text("my answers")
    code, _, err = here("copy", folder)
    assert code == 2
    assert "not empty" in err
    assert (folder / names[0]).read_text() == "my answers"


def test_copy_does_not_write_over_a_file(here, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert here("copy", tmp_path / "file")[0] == 2
    assert (tmp_path / "file").read_text() == "mine"


IMPORT = "import minitransformer as mt"


def test_check_says_what_is_right_and_goes_on_after_an_error(here, notebook):
    mine = notebook(
        IMPORT,
        "mt.check('1.4', 32)",
        "1 / 0",
        "mt.check('1.1', ...)",
        "mt.check('1.3', lambda q, k, v: (q @ k.T).softmax(-1) @ v)",
        "import os; open('written', 'w').close()",
    )
    before = mine.read_bytes()
    code, out, err = here("check", mine)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0] == str(mine)
    assert "… 1.1 not done yet" in lines[1]
    assert lines[2] == "  … 1.2 not done yet. Nothing checks it."
    assert "✗ 1.3 wrong. Your result equals the one without dividing the scores by √E." in lines[3]
    assert lines[4].startswith("  ✓ 1.4 right.")
    assert lines[7] == "  cell 3 stopped with ZeroDivisionError: division by zero"
    assert lines[8] == "  1 of 6 right"
    assert mine.read_bytes() == before
    assert (mine.parent / "written").exists()  # it runs in the notebook's folder

    code, out, _ = here("check", mine, "--json")
    found = json.loads(out)[str(mine)]
    assert code == 1
    assert not found["right"]
    states = [verdict["state"] for verdict in found["verdicts"]]
    assert states == ["not done yet", "not done yet", "wrong", "right", "not done yet", "not done yet"]


ALL_RIGHT = """
import minitransformer as mt
from minitransformer.lessons.one_head import EXERCISES
for exercise in EXERCISES:
    mt.check(exercise.number, exercise.right if exercise.cases else exercise.right())
"""


def test_all_is_right_only_if_no_cell_stopped(here, notebook):
    assert here("check", notebook(ALL_RIGHT))[0] == 0
    code, out, _ = here("check", notebook(ALL_RIGHT, "1 / 0"))
    assert code == 1
    assert "6 of 6 right" in out


def test_one_that_cannot_be_judged_does_not_keep_the_others_from_it(here, notebook, tmp_path):
    good = notebook(IMPORT, "mt.check('1.4', 32)")
    (tmp_path / "bad.ipynb").write_text("{}")
    code, out, err = here("check", tmp_path / "bad.ipynb", good, "--json")
    assert code == 2
    assert "bad.ipynb" in err
    found = json.loads(out)
    assert "no notebook" in found[str(tmp_path / "bad.ipynb")]["error"]
    assert found[str(good)]["verdicts"][3]["state"] == "right"


def test_ctrl_c_ends_it_with_its_code_and_leaves_no_process(notebook):
    command = [sys.executable, "-m", "minitransformer", "lessons", "check"]
    mine = notebook(IMPORT, "open('begun', 'w').close()\nimport time; time.sleep(600)")
    process = subprocess.Popen([*command, str(mine)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (mine.parent / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ((IMPORT, "mt.check('1.4', 32)", "while True: pass"), "more than 5 s"),
        ((IMPORT, "mt.check('1.4', 32)", "import os; os._exit(1)"), "Python ended"),
        ((IMPORT, "1 + 1 # mt.check('1.4', 32)"), "checks no exercise"),
    ],
)
def test_a_notebook_that_cannot_be_judged(here, notebook, cells, told):
    code, out, err = here("check", notebook(*cells), "--timeout", 5 if "5 s" in told else 100)
    assert (code, out) == (2, "")
    assert told in err


@pytest.mark.parametrize("content", ["", "{}", "[1]", "not json", '{"nbformat": 4}', '{"cells": 3, "nbformat": 4}'])
def test_a_file_that_is_no_notebook(here, tmp_path, content):
    (tmp_path / "mine.ipynb").write_text(content)
    code, _, err = here("check", tmp_path / "mine.ipynb")
    assert code == 2
    assert err.startswith("minitransformer: ")
    assert len(err.splitlines()) == 1


def test_without_ipython_it_says_what_to_install(here, notebook, monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    code, _, err = here("check", notebook(IMPORT))
    assert code == 2
    assert "minitransformer[lessons]" in err


def test_a_folder_and_a_link_that_leads_nowhere(here, tmp_path):
    assert "*.ipynb" in here("check", tmp_path)[2]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "leads nowhere" in here("copy", tmp_path / "link")[2]


def test_a_file_that_is_not_there(here, tmp_path):
    code, _, err = here("check", tmp_path / "mine.ipynb")
    assert code == 2
    assert "lessons copy" in err
