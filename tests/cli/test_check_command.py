"""`minitransformer check` as a user meets it."""

import json
import os
from pathlib import Path

import pytest
import torch
import transformers
from typer.testing import CliRunner

from minitransformer.cli import app, exit_code, main
from minitransformer.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("review,stars\n" + "good film,5\nbad film,1\ngood,5\nbad,1\n" * 2)
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_the_report_is_printed_and_nothing_is_written(folder, table):
    columns = ("--columns", "text=review,label=stars")
    done = run(folder, table, "--dev", 2, *columns, "--epochs", 2, "--batch-size", 1)
    assert done.exit_code == 0, done.output
    for told in (
        "ready to train",
        "reviews.csv (text=review, label=stars)",
        "0 1",
        "1 5",
        "[CLS]",
        "12 steps",
        "parameters",
    ):
        assert told in done.output
    assert all(
        len(line) <= 120
        for line in done.output.splitlines()
        if str(folder.parent) not in line and str(table.parent) not in line
    )
    assert [path.name for path in table.parent.iterdir()] == ["reviews.csv"]


def test_json_is_the_same_as_data(folder, table):
    done = run(folder, table, "--dev", 0, "--columns", "text=review,label=stars", "--json", "--train", "head")
    found = json.loads(done.output)
    assert found["usable"] is True
    assert found["labels"] == ["1", "5"]
    assert found["parts"]["train"]["lengths"]["tokens"] == 4 * 4 + 4 * 3
    assert found["cost"]["training"] == 8 * 8 + 8 + 2 * 8 + 2  # the pooler's weights and the classifier's


def test_rows_that_would_stop_a_run_end_with_65(folder, table, tmp_path):
    dev = tmp_path / "dev.csv"
    dev.write_text("review,stars\ngood,3\ngood film,4\nbad,1\n")
    done = run(folder, table, "--dev", dev, "--columns", "text=review,label=stars")
    assert done.exit_code == 65
    assert f"unknown label '3', expected one of 1, 5\n      {dev}, line 2\n" in done.output
    assert "unknown label '4'" in done.output


def test_what_cannot_be_read_is_one_message(folder, table, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["minitransformer", "check", str(folder), str(table)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == exit_code(DataError()) == 65
    assert capsys.readouterr().err.startswith("minitransformer: ")


@pytest.mark.skipif("MINITRANSFORMER_DATA" not in os.environ, reason="MINITRANSFORMER_DATA names no folder of data")
def test_real_data(folder):
    done = run(
        folder,
        Path(os.environ["MINITRANSFORMER_DATA"]) / "wnut17" / "dev.conll",
        "--task",
        "tag",
        "--dev",
        "0.2",
        "--json",
    )
    found = json.loads(done.output)
    assert found["parts"]["train"]["rows"] + found["parts"]["dev"]["rows"] == 1009
    assert len(found["labels"]) == 13
