"""The model card: the hub can read its head, people its body, whatever the names in it."""

import html
import re

import pytest
import transformers
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from minitransformer.finetune.report.card import model_card
from minitransformer.finetune.report.shown import one_line
from minitransformer.tasks import TASKS
from minitransformer.tasks.task import Row

NAMES = st.text(max_size=20) | st.text(alphabet="-|`*_<>[]()#:'\"{}&\\\n\r %@!~$ aé中", max_size=20)
FACTS = {
    "name": "runs/a",
    "task": "classify",
    "base_model": "distilbert/distilbert-base-uncased",
    "data": "reviews.csv",
    "rows": {"train": 900, "dev": 100, "test": 50},
    "recipe": {"epochs": 3.0, "learning_rate": 5e-5, "steps": None, "prefix": ""},
    "results": {"dev": [{"accuracy": 0.9123456789, "loss": 5e-5}], "test": [{"accuracy": 0.5}]},
}

OFFERED = set(dir(transformers))
TAGS = {"h1", "h2", "p", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "img"}


def head_and_body(card):
    """What the hub reads, and the body as a page."""
    card.encode("utf-8")
    read = ModelCard(card)
    return read.data.to_dict(), MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(read.text)


def results(card):
    return {
        (result["dataset"]["split"], metric["type"]): metric["value"]
        for result in head_and_body(card)[0]["model-index"][0]["results"]
        for metric in result["metrics"]
    }


def cells(page):
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)]


def test_the_head_says_what_the_hub_asks_for():
    head, _ = head_and_body(model_card(**FACTS))
    index = head.pop("model-index")[0]
    assert head == {
        "library_name": "minitransformer",
        "pipeline_tag": "text-classification",
        "tags": ["minitransformer", "classify"],
        "base_model": "distilbert/distilbert-base-uncased",
    }
    assert index["name"] == "runs/a"
    assert {result["dataset"]["name"] for result in index["results"]} == {"reviews.csv"}
    assert {result["task"]["type"] for result in index["results"]} == {"text-classification"}
    assert results(model_card(**FACTS)) == {
        ("dev", "accuracy"): 0.912346, ("dev", "loss"): 5e-5, ("test", "accuracy"): 0.5,
    }  # fmt: skip


def test_the_body_tells_data_results_recipe_and_limits():
    facts = {**FACTS, "sha256": "ab" * 32, "labels": ["negative", "positive"], "pictures": ["my curves.svg"]}
    _, page = head_and_body(model_card(**facts))
    rows = cells(page)
    assert ["train", "900"] in rows
    assert ["metric", "dev", "test"] in rows
    assert ["accuracy", "0.9123", "0.5"] in rows
    assert ["loss", "5e-05", ""] in rows
    assert ["learning_rate", "5e-05"] in rows
    assert not any(row[0] == "steps" for row in rows)
    assert "ab" * 32 in page
    assert "negative, positive" in page
    assert '<img src="my%20curves.svg"' in page
    assert "learned from 900 rows" in page
    assert "these flatter" not in page
    without_test = {**FACTS, "rows": {"train": 2, "dev": 1, "test": 0}}
    assert "no test rows were kept apart" in model_card(**without_test)


def test_several_seeds_are_a_mean_and_a_deviation():
    runs = [{"f1": value} for value in (0.90, 0.92, 0.94)]
    card = model_card(**{**FACTS, "results": {"dev": runs}})
    assert ["f1", "0.92 ± 0.02"] in cells(head_and_body(card)[1])
    assert "3 runs with different seeds" in card
    assert results(card) == {("dev", "f1"): 0.92}


def test_scores_that_are_no_numbers_stay_out_of_the_head():
    card = model_card(**{**FACTS, "results": {"dev": [{"perplexity": float("inf"), "pearson": float("nan"), "f1": 1}]}})
    assert results(card) == {("dev", "f1"): 1}
    assert ["perplexity", "inf"] in cells(head_and_body(card)[1])
    unjudged = model_card(**{**FACTS, "results": {"dev": [], "test": []}})
    assert "model-index" not in head_and_body(unjudged)[0]
    assert "Not judged" in unjudged


@pytest.mark.parametrize("base", ["/tmp/model", "package:gt_all", "../x", "a/b/c", "", "x" * 200])
def test_a_base_model_that_is_not_on_the_hub_is_not_linked(base):
    assert "base_model" not in head_and_body(model_card(**{**FACTS, "base_model": base}))[0]


def test_a_base_model_in_a_folder_is_not_linked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert "base_model" not in head_and_body(model_card(**{**FACTS, "base_model": "runs/a"}))[0]
    assert head_and_body(model_card(**{**FACTS, "base_model": "runs/b"}))[0]["base_model"] == "runs/b"


@settings(max_examples=50, deadline=None)
@given(NAMES)
@example("x\n---\nlicense: mit\n---\n# y")
@example("</td></table><script>alert(1)</script>")
@example("a|b\\|c`d|e`")
@example("\x00\x85\u2028\ud800\u202e[x](javascript:alert(1))")
@example("&lt;b&gt; __x__ ~~y~~ ![z](http://e)")
@example("- [ ] 1. > # $x$ ```")
@example("@{!!python/object:os.system} *anchor !tag %YAML")
def test_any_name_is_only_text(name):
    facts = {**FACTS, "name": name, "data": name, "labels": [name, "b"], "base_model": name}
    card = model_card(**facts, pictures=[name])
    head, page = head_and_body(card)
    assert set(head) <= {"library_name", "pipeline_tag", "tags", "base_model", "model-index"}
    assert head["model-index"][0]["name"] == (one_line(name) or "model")
    assert head["library_name"] == "minitransformer"
    assert set(re.findall(r"<(\w+)", page)) <= TAGS
    assert page.count("<img") == 1
    assert "href" not in page
    shown = re.search(r"<h2>Labels</h2>\n<p>As the outputs come: (.*), b</p>", page)
    assert html.unescape(shown[1]) == one_line(name)
    code = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    assert len(code) == 2
    loaded = []
    exec(code[0].splitlines()[2], {"mt": type("mt", (), {"load": loaded.append})})
    assert loaded == [name]


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, NAMES | st.integers() | st.floats(), max_size=4))
@example({"a|b": "c|`d|e` \\| \\"})
def test_any_recipe_stays_in_its_table(recipe):
    _, page = head_and_body(model_card(**{**FACTS, "recipe": recipe}))
    shown = [[html.unescape(cell) for cell in row] for row in cells(page[page.index("<h2>Recipe") :])]
    assert shown[1:] == [[one_line(key), one_line(value)] for key, value in recipe.items()]


@pytest.mark.parametrize("task", TASKS)
def test_the_code_is_right_for_each_task(task):
    card = model_card(**{**FACTS, "task": task, "results": {}})
    ours, theirs = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)
    for name in re.findall(r"import (.*)", theirs)[0].split(", "):
        assert name in OFFERED
    compile(theirs, "card", "exec")
    compile(ours, "card", "exec")
    asked = []
    model = type("model", (), {"tokenizer": type("tokenizer", (), {"special": {"mask_token": "[MASK]"}})})
    model.predict = model.generate = staticmethod(lambda inputs, **_: asked.append(inputs))
    model.chat = staticmethod(
        lambda: type("chat", (), {"say": staticmethod(lambda text: [asked.append([text]), ""][1:])})
    )
    exec(ours.splitlines()[-1], {"model": model, "print": lambda _: None})
    if task != "lm":
        assert all(isinstance(TASKS[task].row(None, each), Row) for each in asked[0])
    assert "transformers" not in model_card(**{**FACTS, "task": task}, for_transformers=False).replace(
        "minitransformer", ""
    )


def test_many_labels_are_cut():
    card = model_card(**FACTS, labels=[f"label{i}" for i in range(150)])
    assert "label99, and 50 more" in card
