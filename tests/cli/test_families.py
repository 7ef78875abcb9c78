"""`minitransformer families`, and the record of the last test run that it shows."""

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import parity_record
import pytest

from minitransformer.cli import last_test_run
from minitransformer.cli.families import SHORT
from minitransformer.errors import CorruptFileError
from minitransformer.families import FAMILIES

TESTS = Path(__file__).parents[1]
VERSIONS = {"torch": "2.13.0+cpu", "transformers": "5.23.0"}
GOOD = {"ran": 2, "passed": 2, "largest_difference": 1.5e-06, "when": "2026-01-02T03:04:05+00:00", **VERSIONS}


@pytest.fixture
def record(tmp_path, monkeypatch):
    """The path of the record, in a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "minitransformer" / "parity.json"


def write(record, content):
    record.parent.mkdir(parents=True)
    record.write_text(content if isinstance(content, str) else json.dumps({"families": content}), encoding="utf-8")


def families(*arguments, columns=100):
    done = subprocess.run(
        [sys.executable, "-m", "minitransformer", "families", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        env={**os.environ, "COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0, done.stderr
    return done


def rows(text):
    """The cells of the table, put together again from their lines: family -> [differs, heads, tokenizer, parity]."""
    lines = text.splitlines()
    rule = next(i for i, line in enumerate(lines) if "──" in line)
    titles, first = lines[rule - 1], lines[rule + 1]
    starts = [1, first.index(FAMILIES["bert"].differs[:9])]
    starts += [titles.index(title) for title in ("heads", "tokenizer", "parity")]
    found, family = {}, ""
    for line in lines[rule + 1 : lines.index(" " * len(titles), rule)]:
        name, *cells = (line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True))
        family = name or family
        found[family] = [f"{old} {new}".strip() for old, new in zip(found.get(family, [""] * 4), cells, strict=True)]
    return found


@pytest.mark.parametrize("columns", [80, 120])
def test_a_table_for_people(record, columns):
    text = families(columns=columns).stdout
    assert max(map(len, text.splitlines())) <= columns
    assert "\x1b" not in text
    assert "…" not in text
    shown = rows(text)
    assert list(shown) == list(FAMILIES)
    for name, family in FAMILIES.items():
        differs, heads, tokenizer, parity = shown[name]
        assert differs == family.differs
        whole = {short: head for head, short in SHORT.items()}
        assert [whole.get(head, head) for head in heads.split(", ")] == list(family.classes)
        assert family.tokenizer in (f"{tokenizer}Tokenizer", "")
        assert parity == "not run here"
    for head, short in SHORT.items():
        assert f"{short} = {head}" in text.replace("\n", " ").replace("  ", " ")
    assert text.splitlines()[-1] == "For a model of your own: minitransformer parity NAME"


def test_json_for_programs(record):
    write(record, {"vit": GOOD, "bert": {**GOOD, "passed": 1, "largest_difference": None}})
    data = {row["family"]: row for row in json.loads(families("--json").stdout)}
    assert list(data) == list(FAMILIES)
    assert data["gpt2"]["heads"] == dict(FAMILIES["gpt2"].classes)
    assert data["gpt2"]["differs"] == FAMILIES["gpt2"].differs
    assert data["gpt2"]["tokenizer"] == "GPT2Tokenizer"
    assert data["vit"]["tokenizer"] is None
    assert data["gpt2"]["parity"] == {"status": "not run here"}
    assert data["vit"]["parity"] == {"status": "equal", **GOOD}
    assert data["bert"]["parity"]["status"] == "different"


def test_what_the_last_run_found(record):
    older = {**GOOD, "ran": 1, "passed": 0, "largest_difference": None, "when": "2025-12-31T00:00:00", "torch": "2.9"}
    write(record, {"vit": GOOD, "gpt2": older, "gone": GOOD})
    text = families().stdout
    shown = {name: cells[-1] for name, cells in rows(text).items()}
    assert shown.pop("vit") == "2 of 2 equal, to 1.5e-06"
    assert shown.pop("gpt2") == f"0 of 1 equal, {len(FAMILIES['gpt2'].classes) - 1} not run"
    assert set(shown.values()) == {"not run here"}
    assert "tested 2026-01-02 with torch 2.13.0+cpu, transformers 5.23.0\n" in text
    assert "tested 2025-12-31 with torch 2.9, transformers 5.23.0\n" in text


def test_the_table_needs_no_torch(record):
    write(record, {"vit": GOOD})
    code = (
        "import sys; from minitransformer.cli import app; app(['families'], standalone_mode=False);"
        "print('torch' in sys.modules, 'transformers' in sys.modules, 'tokenizers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "False False False"


DAMAGED = {
    "empty": "",
    "cut off": json.dumps({"families": {"bert": GOOD}})[:-5],
    "not an object": "[]",
    "deep": "[" * 50_000,
    "large": json.dumps({"families": {}, "more": "x" * 200_000}),
    "no families": "{}",
    "a list of families": '{"families": []}',
    "not a result": '{"families": {"bert": "good"}}',
    "a list": '{"families": {"bert": []}}',
    "a long number": '{"families": {"bert": ' + "9" * 5000 + "}}",
    "not finite": json.dumps({"families": {"bert": {**GOOD, "largest_difference": float("nan")}}}),
}
WRONG = [
    {"ran": "2"},
    {"ran": True, "passed": True},
    {"ran": 1},
    {"passed": -1},
    {"ran": 10**9},
    {"largest_difference": "0"},
    {"largest_difference": -1.0},
    {"largest_difference": [1]},
    {"when": 0},
    {"when": "yesterday"},
    {"torch": "2.0\x1b[31m"},
    {"torch": "2" * 50},
    {"transformers": None},
    {"transformers": ""},
    {"besides": 1},
]


@pytest.mark.parametrize(
    "content", [*DAMAGED.values(), *({"bert": {**GOOD, **wrong}} for wrong in WRONG)], ids=[*DAMAGED, *map(str, WRONG)]
)
def test_a_damaged_record_is_refused(record, content):
    write(record, content)
    with pytest.raises(CorruptFileError, match=r"parity\.json: not what the tests write; remove it"):
        last_test_run.read()


def test_a_damaged_record_in_the_table(record):
    write(record, "damaged")
    done = families()
    assert {cells[-1] for cells in rows(done.stdout).values()} == {"unreadable"}
    assert done.stderr.startswith(f"minitransformer: {record}: ")
    assert len(done.stderr.splitlines()) == 1
    assert {row["parity"]["status"] for row in json.loads(families("--json").stdout)} == {"unreadable"}


def test_what_is_no_file_is_refused(record):
    record.mkdir(parents=True)
    with pytest.raises(CorruptFileError):
        last_test_run.read()
    record.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(record)  # to read it would wait for ever
        with pytest.raises(CorruptFileError):
            last_test_run.read()


@pytest.mark.parametrize("home", ["", "somewhere/relative"])
def test_the_usual_cache(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    assert last_test_run.path() == Path.home() / ".cache" / "minitransformer" / "parity.json"


def test_the_readme_names_each_family():
    readme = (TESTS.parent / "README.md").read_text(encoding="utf-8")
    table = readme.split("## What loads")[1].split("\n\n")[1].split("|---|---|")[1]
    assert re.findall(r"`([^`]+)`", table) == list(FAMILIES)
    assert f"{len(FAMILIES)} families" in readme


# The record, as the tests write it.


def run_pytest(folder, *arguments):
    """Run CASES, with the hook that this suite has."""
    (folder / "conftest.py").write_text("from parity_record import pytest_configure\n")
    (folder / "test_cases.py").write_text(CASES)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={folder}", *arguments]
    env = {**os.environ, "PYTHONPATH": str(TESTS), "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "yes"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


CASES = """
import os, pytest

@pytest.mark.parametrize("difference", [1e-07, 3e-06, 2e-06])
@pytest.mark.parametrize("head", ["base", "masked-lm"])
def test_equal(head, difference, record_property):
    record_property("parity", ["bert", head, None])
    record_property("parity", ["bert", head, difference])

@pytest.mark.parametrize(("head", "fails"), [("base", False), ("causal-lm", False), ("causal-lm", True)])
def test_one_head_of_two(head, fails, record_property):
    record_property("parity", ["gpt2", head, None])
    assert not fails
    record_property("parity", ["gpt2", head, 1e-06])

def test_skipped(record_property):
    record_property("parity", ["vit", "base", None])
    pytest.skip("for some reason")

def test_of_something_else():
    if "CRASH" in os.environ:
        os._exit(1)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_is_recorded(record, tmp_path, workers):
    write(record, {"vit": GOOD, "bert": {**GOOD, "ran": 7}})
    done = run_pytest(tmp_path, "-p", "xdist", "-n", str(workers))
    assert "1 failed, 9 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    found = last_test_run.read()
    assert list(found) == ["vit", "bert", "gpt2"]
    assert found["vit"].to_dict() == GOOD  # what did not run keeps its result
    assert (found["bert"].ran, found["bert"].passed, found["bert"].largest_difference) == (2, 2, 3e-06)
    assert (found["gpt2"].ran, found["gpt2"].passed, found["gpt2"].largest_difference) == (2, 1, None)
    assert found["bert"].when.year >= 2026
    assert os.listdir(record.parent) == ["parity.json"]


def test_a_worker_that_dies_leaves_no_record(record, tmp_path, monkeypatch):
    monkeypatch.setenv("CRASH", "yes")
    done = run_pytest(tmp_path, "-p", "xdist", "-n", "2")
    assert "crashed" in done.stdout
    assert not record.exists()


def test_nothing_compared_is_no_record(record, tmp_path):
    assert "11 tests collected" in run_pytest(tmp_path, "--collect-only").stdout
    assert run_pytest(tmp_path, "-k", "something_else").returncode == 0
    assert not record.parent.exists()


@pytest.mark.parametrize("fails", [False, True])
def test_the_comparison_is_recorded(fails, monkeypatch):
    """What the suite's own comparison says of a case."""
    monkeypatch.syspath_prepend(str(TESTS / "families"))
    import oracle
    import test_same_numbers

    case, said = oracle.Case("vit", "base"), []
    if fails:
        monkeypatch.setattr(test_same_numbers, "assert_same", functools.partial(oracle.assert_same, atol=0, rtol=0))
    with pytest.raises(AssertionError) if fails else contextlib.nullcontext():
        test_same_numbers.test_outputs(case, "by_hand", lambda name, value: said.append((name, value)))
    family, head, difference = dict(said)["parity"]
    assert (family, head) == ("vit", "base")
    assert difference is None if fails else 0 < difference < 1e-4


def one_run(exitstatus, outcome="passed"):
    plugin = parity_record.ParityRecord()
    report = SimpleNamespace(when="call", passed=outcome == "passed", skipped=outcome == "skipped", user_properties=[])
    report.user_properties = [("parity", ["bert", "base", None]), ("parity", ["bert", "base", 1e-06])]
    plugin.pytest_runtest_logreport(report)
    plugin.pytest_sessionfinish(exitstatus)


def test_an_interrupted_run_is_not_recorded(record):
    one_run(pytest.ExitCode.INTERRUPTED)
    assert not record.exists()
    one_run(pytest.ExitCode.OK)
    assert last_test_run.read()["bert"].largest_difference == 1e-06


def test_a_damaged_record_is_written_anew(record):
    write(record, '{"families": {"vit": 7}}')
    one_run(pytest.ExitCode.OK)
    assert list(last_test_run.read()) == ["bert"]


def test_a_cache_that_cannot_be_written_fails_no_run(record, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    one_run(pytest.ExitCode.OK)
    assert last_test_run.read() == {}
