"""Rows from files: what is read, and one clear error for each thing that can be wrong with a file."""

import json
from collections import Counter

import pytest
from sklearn.model_selection import train_test_split

from minitransformer.errors import DataError, NotFoundError
from minitransformer.finetune.rows import check_labels, label_set, read_rows, split
from minitransformer.tasks import Row

TEXTS = [
    'plain, with a comma "and quotes"',
    "a\u0085b\u2028c: line separators that are none",
    "日本 🙂",
    " spaces kept ",
]


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_csv_tsv_and_jsonl_give_the_same_rows(tmp_path):
    import csv

    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["label", "text"], *(["x", text] for text in TEXTS)])
    write(tmp_path / "a.tsv", "text\tlabel\n" + "".join(f"{text}\tx\n" for text in TEXTS))
    write(tmp_path / "a.jsonl", "".join(json.dumps({"text": text, "label": "x"}) + "\n\n" for text in TEXTS))
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        assert read_rows(tmp_path / name) == [Row(text, "x") for text in TEXTS], name


def test_other_columns_byte_order_mark_and_whole_number_labels(tmp_path):
    write(tmp_path / "a.csv", "id,review,stars\n1,fine,5\n", encoding="utf-8-sig")
    assert read_rows(tmp_path / "a.csv", text="review", label="stars") == [Row("fine", "5")]
    write(tmp_path / "b.jsonl", '{"text": "fine", "label": 5}\n')
    assert read_rows(tmp_path / "b.jsonl") == [Row("fine", "5")]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "", "no column 'text'"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "text,mark\na,b\n", "no column 'label' in the first line, which has text, mark"),
        ("a.csv", "text,label\na,b\na\n", "line 3: expected 2 columns"),
        ("a.csv", "text,label\na,b,c\n", "line 2: expected 2 columns"),
        ("a.csv", 'text,label\n"a,b\n', "line 2"),
        ("a.csv", "text,label\na,b\n ,b\n", "line 3: 'text' is ' '"),
        ("a.tsv", "text\tlabel\na\t\n", "line 2: 'label' is ''"),
        ("a.jsonl", '{"text": "a", "label": "b"}\nnonsense\n', "line 2: no JSON object"),
        ("a.jsonl", "[1]\n", "line 1: got list"),
        ("a.jsonl", "[" * 100_000 + "\n", "line 1"),
        ("a.jsonl", '{"text": "a"}\n', "line 1: no 'label' among text"),
        ("a.jsonl", '{"text": "a", "label": 0.5}\n', "line 1: 'label' is 0.5"),
        ("a.jsonl", '{"text": 1, "label": "b"}\n', "line 1: 'text' is 1"),
        ("a.parquet", "x", "expected one of .csv, .tsv, .jsonl"),
    ],
)
def test_a_bad_file_is_one_error_that_names_the_place(tmp_path, name, content, told):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as error:
        read_rows(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_bytes_that_are_not_utf8_and_files_that_are_not_there(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\nfünf,b\n", encoding="latin-1")
    with pytest.raises(DataError, match="not UTF-8"):
        read_rows(path)
    with pytest.raises(NotFoundError, match="no such file"):
        read_rows(tmp_path / "none.csv")


def test_labels():
    rows = [Row("x", label) for label in "babab"]
    assert label_set(rows) == ("a", "b")
    with pytest.raises(DataError, match="nothing to tell apart"):
        label_set(rows[:1])
    with pytest.raises(DataError, match="right column"):
        label_set([Row("x", str(i)) for i in range(50)])
    with pytest.raises(DataError, match=r"unknown labels \{'c': 1\}, expected one of a, b"):
        check_labels([Row("x", "c"), *rows], ("a", "b"), "held-out rows")


@pytest.mark.parametrize("held_out", [1, 7, 30, 99])
def test_the_split_is_stratified_like_scikit_learns(held_out):
    rows = [Row(str(i), label) for i, label in enumerate("a" * 60 + "b" * 30 + "c" * 10)]
    training, unseen = split(rows, held_out, seed=3)
    assert sorted(training + unseen, key=lambda row: int(row.text)) == rows
    assert (training, unseen) == split(rows, held_out, seed=3)
    assert (training, unseen) != split(rows, held_out, seed=4)
    if held_out >= 3 and len(training) >= 3:
        _, theirs = train_test_split(rows, test_size=held_out, stratify=[row.label for row in rows], random_state=0)
        ours, theirs = Counter(row.label for row in unseen), Counter(row.label for row in theirs)
        assert all(abs(ours[label] - theirs[label]) <= 1 for label in "abc")


@pytest.mark.parametrize("held_out", [0, 5, 6])
def test_a_split_that_leaves_nothing_is_refused(held_out):
    with pytest.raises(DataError, match="held-out rows"):
        split([Row("x", "a")] * 5, held_out, seed=0)


def test_the_only_row_of_a_label_is_not_held_out():
    rows = [Row("x", "a")] * 10 + [Row("y", "b")] * 9 + [Row("z", "rare")]
    for seed in range(5):
        training, unseen = split(rows, 4, seed=seed)
        assert Row("z", "rare") in training
        assert {row.label for row in unseen} == {"a", "b"}
