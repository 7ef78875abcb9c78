"""Rows from tables: what is read, and one clear error for each thing that can be wrong with a file."""

import csv
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.errors import DataError, MiniTransformerError, NotFoundError
from minitransformer.finetune.rows import read_rows
from minitransformer.finetune.rows.lines import MAX_LINE
from minitransformer.tasks import TASKS

TEXTS = [
    'plain, with a comma "and quotes"',
    "a\u0085b\u2028c: line separators that are none",
    "日本 🙂",
    " spaces kept ",
    "long " * 40_000,
]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def write_csv(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def test_csv_tsv_jsonl_and_json_give_the_same_rows(tmp_path):
    objects = [{"text": text, "label": "x", "other": 1} for text in TEXTS]
    write_csv(tmp_path / "a.csv", [["label", "other", "text"], *(["x", 1, text] for text in TEXTS)])
    write(tmp_path / "a.TSV", "text\tlabel\n" + "".join(f"{text}\tx\n" for text in TEXTS))
    write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\r\n\n" for row in objects))
    write(tmp_path / "lines.json", "".join(json.dumps(row) + "\n" for row in objects))
    write(tmp_path / "list.json", json.dumps(objects, indent=2))
    for name in ("a.csv", "a.TSV", "a.jsonl", "lines.json", "list.json"):
        assert read_rows(tmp_path / name, "classify") == [{"text": text, "label": "x"} for text in TEXTS], name


def test_a_row_says_where_it_begins(tmp_path):
    write_csv(tmp_path / "a.csv", [["text", "label"], ["one\ntwo\nthree", "x"], [], ["four", "y"]])
    write(tmp_path / "a.jsonl", '\n{"text": "one"}\n\n{"text": "two"}\n')
    write(tmp_path / "a.json", '[{"text": "one"}, {"text": "two"}]')
    assert [row.where for row in read_rows(tmp_path / "a.csv", "classify")] == [
        f"{tmp_path}/a.csv, line 2",
        f"{tmp_path}/a.csv, line 6",
    ]
    both = read_rows([tmp_path / "a.jsonl", str(tmp_path / "a.json")], "lm")
    assert [row.where.removeprefix(f"{tmp_path}/") for row in both] == [
        "a.jsonl, line 2",
        "a.jsonl, line 4",
        "a.json, row 1",
        "a.json, row 2",
    ]


def test_columns_of_other_names_and_a_byte_order_mark(tmp_path):
    write(tmp_path / "a.csv", "review,stars,text,second\nfine,5,not this,b\n", encoding="utf-8-sig")
    columns = {"text": "review", "label": "stars", "pair": "second"}
    assert read_rows(tmp_path / "a.csv", "classify", columns=columns) == [{"text": "fine", "label": "5", "pair": "b"}]
    write(tmp_path / "b.jsonl", '{"text": "fine", "label": 5, "pair": null}\n', encoding="utf-8-sig")
    assert read_rows(tmp_path / "b.jsonl", "classify") == [{"text": "fine", "label": 5}]


def test_numbers_name_the_columns_of_a_file_without_a_header(tmp_path):
    path = write(tmp_path / "a.tsv", "fine\tx\tgood\nawful\tx\tbad\n")
    rows = [{"text": "fine", "label": "good"}, {"text": "awful", "label": "bad"}]
    found = read_rows(path, "classify", columns={"text": "1", "label": "3"})
    assert found == rows
    assert found[0].where == f"{path}, line 1"
    assert read_rows(path, "classify", columns={"text": 1, "label": 3}) == rows
    with pytest.raises(DataError, match="no column '4' among 1, 2, 3"):
        read_rows(path, "classify", columns={"text": "1", "label": "4"})
    path = write(tmp_path / "named.csv", "0,1\nfine,good\n")
    assert read_rows(path, "classify", columns={"text": "0", "label": "1"}) == [{"text": "fine", "label": "good"}]


def test_without_targets_the_columns_to_be_learned_may_be_missing(tmp_path):
    path = write(tmp_path / "a.csv", "text\nfine\n")
    assert read_rows(path, "classify", targets=False) == [{"text": "fine"}]
    assert read_rows(path, "classify", targets=False, columns={"label": "mark"}) == [{"text": "fine"}]
    with pytest.raises(DataError, match="no column 'label' among text"):
        read_rows(path, "classify")
    with pytest.raises(DataError, match="no column 'second' among text"):
        read_rows(path, "classify", targets=False, columns={"pair": "second"})


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_lists_in_cells(tmp_path, kind):
    def read(task, **row):
        with (tmp_path / f"a.{kind}").open("w", newline="") as file:
            marks = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if kind == "tsv" else {}
            csv.writer(file, **marks).writerows([list(row), list(row.values())])
        return dict(read_rows(tmp_path / f"a.{kind}", task)[0])

    assert read("multilabel", text="t", labels="sad | very angry") == {"text": "t", "labels": ["sad", "very angry"]}
    assert read("multilabel", text="t", labels='["a|b", "c"]') == {"text": "t", "labels": ["a|b", "c"]}
    assert read("multilabel", text="t", labels="") == {"text": "t", "labels": []}
    assert read("choice", prompt="p", choices="yes|no", label="1")["choices"] == ["yes", "no"]
    messages = [{"role": "user", "content": "Hi"}]
    assert read("dialogue", messages=json.dumps(messages)) == {"messages": messages}
    answers = [{"text": "at", "answer_start": 2}]
    row = {"question": "q", "context": "a cat"[1:], "answers": json.dumps(answers)}
    assert read("span", **row)["answers"] == answers
    if kind == "csv":  # a tsv file is read as CoNLL writes it
        assert read("tag", words="New  York .", tags="B-x I-x O") == {
            "words": ["New", "York", "."],
            "tags": ["B-x", "I-x", "O"],
        }


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "", "no rows"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.json", "", "no rows"),
        ("a.json", "[]", "no rows"),
        ("a.csv", "text,mark\na,b\n", "line 2: no column 'label' among text, mark"),
        ("a.csv", "text,Label\na,b\n", "did you mean 'Label'?"),
        ("a.csv", "text,mark\na,b\n", "columns={'label': '...'}, on the command line --columns label=..."),
        ("a.csv", "text,label\na,b\na\n", "line 3: it has 1 columns, expected 2"),
        ("a.csv", "text,label\na,b,c\n", "line 2: it has 3 columns, expected 2"),
        ("a.csv", "text,label,text\na,b,c\n", "line 1: 2 columns are called 'text'"),
        ("a.csv", 'text,label\na,b\n"a,b\na,b\n', "line 3: unexpected end of data"),
        ("a.csv", 'text,label\n"a"b,c\n', "line 2: ',' expected after '\"'"),
        ("a.csv", "text,label\ra,b\r", "line 1: new-line character"),
        ("a.csv", "text,label\na,b\na\0,b\n", "line 3: it has a zero byte"),
        ("a.json", '[{"text": "a",\n"label": "\0"}]', "line 2: it has a zero byte"),
        ("a.jsonl", '{"text": "a", "label": "b"}\nnonsense\n', "line 2: not JSON: Expecting value at column 1"),
        ("a.json", '{"text": "a", "label": "b"}\nnonsense\n', "line 2: not JSON: Expecting value at column 1"),
        ("a.json", '[{"text": "a",\n"label": x}]', "not JSON: Expecting value at line 2, column 10"),
        ("a.json", '[{"text": "a", "label": "b"}, 7]', "row 2: got 7, expected a JSON object"),
        ("a.json", '"text"', "row 1: got 'text'"),
        ("a.jsonl", "[1]\n", "line 1: got [1], expected a JSON object"),
        ("a.jsonl", "[" * 100_000 + "\n", "line 1: JSON that is nested too deeply"),
        ("a.json", "[" * 100_000, "JSON that is nested too deeply"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}\n", "line 1: not JSON"),
        ("a.jsonl", '{"text": "\\ud800", "label": "b"}\n', "line 1: it has half of a surrogate pair"),
        ("a.jsonl", '{"text": "a"}\n', "line 1: no column 'label' among text"),
        ("a.xlsx", "x", "this is no kind of file that has them; expected .csv, .tsv"),
        ("a.txt", "fine\n", "the task classify needs 'text' and 'label'"),
    ],
)
def test_a_bad_file_is_one_error_that_names_the_place(tmp_path, name, content, told):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as error:
        read_rows(path, "classify")
    assert told in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("task", "row", "told"),
    [
        ("multilabel", {"text": "t", "labels": "['a', 'b']"}, "line 1: 'labels': not JSON"),
        ("multilabel", {"text": "t", "labels": "[" * 100_000}, "line 1: 'labels': JSON that is nested too deeply"),
        ("dialogue", {"messages": "hello"}, "line 1: 'messages': not JSON"),
        ("dialogue", {"messages": "7"}, "line 1: 'messages' is '7', expected a JSON list"),
    ],
)
def test_a_bad_list_in_a_cell(tmp_path, task, row, told):
    path = write(tmp_path / "a.jsonl", json.dumps(row))
    with pytest.raises(DataError) as error:
        read_rows(path, task)
    assert f"{path}, {told}" in str(error.value)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.txt"])
def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path, name):
    rows = {
        "a.csv": b"text\n\xc3\xa9\nf\xfcnf\n",
        "a.jsonl": b'{"text": "a"}\n\n{"text": "f\xfcnf"}\n',
        "a.json": b'[{"text":\n"\xc3\xa9"},\n{"text": "f\xfcnf"}]',
        "a.txt": b"a\n\xc3\xa9\nf\xfcnf\n",
    }
    (tmp_path / name).write_bytes(rows[name])
    with pytest.raises(DataError, match=rf"{name}, line 3: not UTF-8 \(byte 0xfc\)"):
        read_rows(tmp_path / name, "lm")


def test_a_line_or_a_field_over_the_limit_is_refused_without_reading_on(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.write(b"text,label\na,b\n")
        file.truncate(4 * MAX_LINE)  # zero bytes to the end, on one line
    tracemalloc.start()
    with pytest.raises(DataError, match=f"line 3: longer than {MAX_LINE} bytes"):
        read_rows(path, "classify")
    assert tracemalloc.get_traced_memory()[1] < 3 * MAX_LINE
    tracemalloc.stop()
    path.write_text('text,label\n"' + ("x" * 2**20 + "\n") * 17 + '",b\n')
    with pytest.raises(DataError, match="line 2: field larger than field limit"):
        read_rows(path, "classify")


def test_files_that_are_not_there_and_folders(tmp_path):
    write(tmp_path / "reviews.csv", "text,label\na,b\n")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(NotFoundError, match=r"no none\.csv in .*, which holds folder\.csv, reviews\.csv"):
        read_rows(tmp_path / "none.csv", "classify")
    for path in (tmp_path, tmp_path / "folder.csv"):
        with pytest.raises(NotFoundError, match="a file is expected, and this is none"):
            read_rows(path, "classify")
    with pytest.raises(NotFoundError, match="cannot be read"):
        read_rows("a\0.csv", "classify")


def test_what_is_asked_for_wrongly(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na,b\n")
    with pytest.raises(DataError, match=r"task: got 'clasify', expected one of .*; did you mean 'classify'"):
        read_rows(path, "clasify")
    with pytest.raises(DataError, match=r"columns: got 'review', expected one of text, label, pair for the task"):
        read_rows(path, "classify", columns={"review": "text"})
    with pytest.raises(DataError, match="got no file"):
        read_rows([], "classify")


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.tuples(texts, texts), min_size=1))
def test_any_text_comes_back_as_it_was_written(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    write_csv(folder / "a.csv", [["source", "target"], *rows])
    write(folder / "a.jsonl", "".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in rows))
    expected = [{"source": source, "target": target} for source, target in rows]
    assert read_rows(folder / "a.csv", "translate") == expected
    assert read_rows(folder / "a.jsonl", "translate") == expected


KINDS = ["csv", "tsv", "jsonl", "json", "txt", "conll", "parquet"]
NAMES = sorted({name for task in TASKS.values() for name in (*task.kind.inputs, *task.kind.targets)})
NAMES += ["data", "paragraphs", "qas", "answer_start", "is_impossible", "conversations", "from", "value", "role"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
contents = st.binary() | st.builds(lambda value: json.dumps(value).encode(), json_values)


@given(contents, st.sampled_from(KINDS), st.sampled_from(list(TASKS)), st.booleans())
def test_any_file_gives_rows_or_an_error_of_ours(tmp_path_factory, content, kind, task, targets):
    path = tmp_path_factory.mktemp("any") / f"a.{kind}"
    path.write_bytes(content)
    try:
        rows = read_rows(path, task, targets=targets)
    except MiniTransformerError:
        return
    assert rows
    assert all(name in row for row in rows for name in TASKS[task].kind.inputs)
