"""Rows from the layouts of each task: CoNLL, SQuAD, plain and parallel text, dialogues, folders of images."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from minitransformer.errors import DataError
from minitransformer.finetune.rows import read_rows
from minitransformer.tasks.dialogue import up_to_last_answer
from minitransformer.tasks.span import right_answers


@pytest.fixture
def real():
    if "MINITRANSFORMER_DATA" not in os.environ:
        pytest.skip("MINITRANSFORMER_DATA is not set")
    return Path(os.environ["MINITRANSFORMER_DATA"])


def error_of(source, task, **options):
    with pytest.raises(DataError) as error:
        read_rows(source, task, **options)
    return str(error.value)


CONLL = "-DOCSTART- -X- O\n\nEU NNP B-ORG\nrejects VBZ O\n\n\nPeter NNP B-PER\n"


@pytest.mark.parametrize("suffix", ["conll", "txt", "tsv", "bio", "iob", "iob2"])
@pytest.mark.parametrize("separator", [" ", "\t", "   "])
def test_conll(tmp_path, suffix, separator):
    path = tmp_path / f"a.{suffix}"
    path.write_text(CONLL.replace(" ", separator))
    rows = read_rows(path, "tag")
    assert rows == [{"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]}, {"words": ["Peter"], "tags": ["B-PER"]}]
    assert [row.where for row in rows] == [f"{path}, line 3", f"{path}, line 7"]
    assert read_rows(path, "tag", columns={"tags": "2"})[0]["tags"] == ["NNP", "VBZ"]
    assert read_rows(path, "tag", columns={"words": "2"})[1] == {"words": ["NNP"], "tags": ["B-PER"]}


def test_conll_that_is_wrong(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("EU O\n\nrejects\n")
    assert f"{path}, line 3: one column, expected a word and its tag" in error_of(path, "tag")
    assert read_rows(path, "tag", targets=False) == [{"words": ["EU"]}, {"words": ["rejects"]}]
    assert "line 1: column 7, for 'tags', is empty or not there" in error_of(path, "tag", columns={"tags": "7"})
    assert "got tags='ner', expected a number" in error_of(path, "tag", columns={"tags": "ner"})
    path.write_text("EU\tO\n\tO\n")
    assert f"{path}, line 2: column 1, for 'words', is empty" in error_of(path, "tag")
    path.write_text("\n-DOCSTART- O\n\n")
    assert f"{path}: no rows" in error_of(path, "tag")


def test_real_conll_is_read_as_plainly_as_can_be(real):
    for name, sentences in (("train", 3394), ("dev", 1009)):
        path = real / "wnut17" / f"{name}.conll"
        blocks = [block.split("\n") for block in re.split(r"\n\t?\n", path.read_text("utf-8").strip())]
        pairs = [[line.split("\t") for line in block if line] for block in blocks]
        rows = read_rows(path, "tag")
        assert len(rows) == sentences
        assert [list(map(list, zip(row["words"], row["tags"], strict=True))) for row in rows] == [p for p in pairs if p]


def squad(**changes):
    qa = {"id": "q1", "question": "Where?", "answers": [{"text": "Rome", "answer_start": 3}], **changes}
    return {"version": "x", "data": [{"title": "t", "paragraphs": [{"context": "In Rome, é Rome.", "qas": [qa]}]}]}


@pytest.mark.parametrize("indent", [None, 1])
def test_squad(tmp_path, indent):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(squad(), indent=indent))
    rows = read_rows(path, "span")
    answers = [{"text": "Rome", "answer_start": 3}]
    assert rows == [{"question": "Where?", "context": "In Rome, é Rome.", "answers": answers, "id": "q1"}]
    assert rows[0].where == f"{path}, question q1"
    path.write_text(json.dumps(squad(is_impossible=True, plausible_answers=answers), indent=indent))
    assert read_rows(path, "span")[0]["answers"] == []
    path.write_text(json.dumps({"data": []}))
    assert "no rows" in error_of(path, "span")


def test_squads_flat_form(tmp_path):
    path = tmp_path / "a.jsonl"
    row = {"question": "Where?", "context": "In Rome, é Rome.", "answers": {"text": ["Rome"], "answer_start": [11]}}
    none = row | {"answers": {"text": [], "answer_start": []}}
    path.write_text(f"{json.dumps(row)}\n{json.dumps(none)}")
    assert [row["answers"] for row in read_rows(path, "span")] == [[{"text": "Rome", "answer_start": 11}], []]
    path.write_text(json.dumps({"question": "Where?", "context": "here"}))
    assert read_rows(path, "span", targets=False) == [{"question": "Where?", "context": "here"}]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"answers": [{"text": "Rome", "answer_start": 4}]}, "'Rome' at 4, where .* it begins at 3"),
        ({"answers": [{"text": "Rome", "answer_start": -5}]}, "'Rome' at -5"),
        ({"answers": [{"text": "Oslo", "answer_start": 3}]}, "nowhere in it"),
        ({"answers": [{"text": "Rome", "answer_start": "3"}]}, "expected {text, answer_start}"),
        ({"answers": [{"text": "n", "answer_start": True}]}, "expected {text, answer_start}"),
        ({"answers": [{"text": "", "answer_start": 3}]}, "expected {text, answer_start}"),
        ({"answers": ["Rome"]}, "expected {text, answer_start}"),
        ({"answers": "Rome"}, "'answers': not JSON"),
        ({"answers": None}, "expected a list"),
        ({"answers": {"text": ["Rome"], "answer_start": []}}, "as many texts as starts"),
    ],
)
def test_answers_that_are_not_where_they_should_be(tmp_path, changes, told):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(squad(**changes)))
    with pytest.raises(DataError, match=f"a.json, question q1: .*{told}"):
        right_answers(read_rows(path, "span")[0])


def test_squad_with_a_wrong_layout(tmp_path):
    path = tmp_path / "a.json"
    for paragraphs in (7, [7], [{"context": "c"}], [{"context": "c", "qas": [7]}]):
        path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
        assert "expected a list of objects" in error_of(path, "span")
    path.write_text(json.dumps({"data": [{"paragraphs": [{"qas": [{"question": "q", "answers": []}]}]}]}))
    assert "question 1" in read_rows(path, "span")[0].where


def test_real_squad(real):
    path = real / "squad" / "sample-v1.1.json"
    rows = read_rows(path, "span")
    assert len(rows) == path.read_text("utf-8").count('"question":') == 1407
    for row in rows:
        for answer in row["answers"]:
            assert row["context"][answer["answer_start"] :].startswith(answer["text"])


def test_plain_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffOne line. \r\n\r\n two, don't\n".encode())
    assert read_rows([path, path], "lm") == [{"text": "One line. \n\n two, don't\n"}] * 2
    assert read_rows(path, "mlm") == read_rows(path, "lm")[:1]
    for task in ("classify", "multilabel", "relation", "regress"):
        rows = read_rows(path, task, targets=False)
        assert rows == [{"text": "One line. "}, {"text": " two, don't"}]
    assert [row.where for row in rows] == [f"{path}, line 1", f"{path}, line 3"]
    assert read_rows(path, "summarize", targets=False) == [{"source": "One line. "}, {"source": " two, don't"}]
    tagged = read_rows(path, "tag", targets=False)[1]
    assert tagged["words"] == ["two", ",", "don't"]
    assert [tagged["text"][slice(*place)] for place in tagged["places"]] == tagged["words"]
    path.write_text(" \n")
    assert "no rows" in error_of(path, "lm")


@pytest.mark.parametrize("task", ["translate", "summarize"])
def test_parallel_text(tmp_path, task):
    source, target = tmp_path / "train.en", tmp_path / "train.de"
    source.write_text("a dog\n\na cat\n")
    target.write_text("ein Hund\r\n\r\neine Katze")
    rows = read_rows([source, target], task)
    assert rows == [{"source": "a dog", "target": "ein Hund"}, {"source": "a cat", "target": "eine Katze"}]
    assert rows[1].where == f"{source}, line 3"
    assert read_rows([source, target], task, targets=False)[2] == {"source": "ein Hund"}
    target.write_text("ein Hund\n")
    assert f"{source} has 3 lines, {target} has 1; expected as many" in error_of([source, target], task)
    assert "expected as many" in error_of([target, source], task)
    assert "two text files whose lines belong together" in error_of(source, task)
    (tmp_path / "a.jsonl").write_text('{"source": "a", "target": "b"}')
    assert len(read_rows([tmp_path / "a.jsonl"] * 2, task)) == 2


def test_real_parallel_text(real):
    rows = read_rows([real / "multi30k" / f"val.{language}" for language in ("en", "de")], "translate")
    assert len(rows) == 1014
    assert rows[0]["source"].startswith("a group of men are loading cotton")
    assert "baumwolle" in rows[0]["target"]


def test_dialogues_in_three_layouts(tmp_path):
    messages = [{"role": "user", "content": "Add:\n\n1 2"}, {"role": "assistant", "content": "3"}]
    turns = [{"from": "human", "value": "Add:\n\n1 2"}, {"from": "gpt", "value": "3"}]
    alpaca = {"instruction": "Add:", "input": "1 2", "output": "3", "text": "not this"}
    path = tmp_path / "a.jsonl"
    records = [{"messages": messages}, {"conversations": turns, "id": 7}, alpaca]
    path.write_text("\n".join(map(json.dumps, records)))
    assert read_rows(path, "dialogue") == [{"messages": messages}] * 3
    (tmp_path / "a.csv").write_text('instruction,input,output\n"Add:",1 2,3\n')
    assert read_rows(tmp_path / "a.csv", "dialogue") == [{"messages": messages}]
    path.write_text(json.dumps({"instruction": "Hi", "input": ""}))
    assert read_rows(path, "dialogue") == [{"messages": [{"role": "user", "content": "Hi"}]}]
    path.write_text(json.dumps({"chat": [{"from": "system", "value": "s"}]}))
    rows = read_rows(path, "dialogue", columns={"messages": "chat"})
    assert rows == [{"messages": [{"role": "system", "content": "s"}]}]


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"text": "a"}, "no column 'messages' among text"),
        ({"messages": []}, "expected a list of messages"),
        ({"messages": ["Hi"]}, "message 0 is 'Hi'"),
        ({"messages": [{"role": "user"}]}, 'expected {"role": ..., "content": a text}'),
        ({"conversations": [{"from": "robot", "value": "Hi"}]}, '"human" | "gpt" | "system"'),
        ({"conversations": [{"from": ["gpt"], "value": "Hi"}]}, '"human" | "gpt" | "system"'),
        ({"instruction": 7, "output": "a"}, "expected texts as instruction"),
    ],
)
def test_dialogues_that_are_wrong(tmp_path, record, told):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(DataError) as raised:
        up_to_last_answer(read_rows(path, "dialogue")[0])
    assert told in str(raised.value)
    assert f"{path}, line 1" in str(raised.value)


@pytest.fixture
def flowers(tmp_path):
    folder = tmp_path / "flowers"
    for name in ("rose/1.png", "rose/2.JPG", "tulip/3.webp", "rose/notes.txt", "rose/.4.png", ".git/5.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_folder_of_images(flowers):
    rows = read_rows(flowers, "image")
    assert [(row["path"], row["label"]) for row in rows] == [
        (str(flowers / "rose" / "1.png"), "rose"),
        (str(flowers / "rose" / "2.JPG"), "rose"),
        (str(flowers / "tulip" / "3.webp"), "tulip"),
    ]
    assert rows[0].where == rows[0]["path"]
    loose = read_rows(flowers / "rose", "image", targets=False)
    assert [Path(row["path"]).name for row in loose] == ["1.png", "2.JPG"]
    assert "label" not in loose[0]
    assert Counter(row["label"] for row in read_rows(flowers, "image", targets=False)) == {"rose": 2, "tulip": 1}


def test_a_folder_of_images_that_is_wrong(flowers, tmp_path):
    assert "no rows" in error_of(flowers / "rose", "image")
    assert f"{tmp_path}/flowers: no images in it; expected" in error_of(tmp_path, "image")
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "6.png").touch()
    (flowers / "tulip" / "7.png").symlink_to(flowers / "rose" / "1.png")
    assert len(read_rows(flowers, "image")) == 4
    (flowers / "tulip" / "8.png").symlink_to(outside / "6.png")
    assert "tulip/8.png' leads out of the folder" in error_of(flowers, "image")
    (flowers / "tulip" / "8.png").unlink()
    (flowers / "secret").symlink_to(outside)
    assert "flowers/secret' leads out of the folder" in error_of(flowers, "image")


def test_a_table_of_images(flowers, tmp_path):
    table = flowers / "all.csv"
    table.write_text("path,label\nrose/1.png,rose\n")
    assert read_rows(table, "image") == [{"path": str(flowers / "rose" / "1.png"), "label": "rose"}]
    (tmp_path / "out.png").touch()
    (flowers / "link.png").symlink_to(tmp_path / "out.png")
    (flowers / "loop.png").symlink_to("loop.png")
    for path in ("../out.png", str(tmp_path / "out.png"), "link.png", "rose/../../out.png"):
        table.write_text(f"path,label\n{path},rose\n")
        assert f"{table}, line 2: " in error_of(table, "image")
        assert "leads out of the folder" in error_of(table, "image")
    for path in ("none.png", "rose", "loop.png", "x" * 5000):
        table.write_text(f"path,label\n{path},rose\n")
        assert f"{table}, line 2: no image" in error_of(table, "image")
    (flowers / "a.jsonl").write_text('{"path": "a\\u0000.png", "label": "x"}')
    assert "leads out" in error_of(flowers / "a.jsonl", "image")
