"""The commands for more than one run, and for what goes before and after it."""

import json

import pytest
import torch
import transformers
from typer.testing import CliRunner

from minitransformer.cli import app

QUICK = ["--steps", "2", "--batch-size", "8", "--learning-rate", "1e-3", "--dev", "0.3"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"]
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=12,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    rows = [f"{word} film {'film ' * n},{word}" for n in range(10) for word in ("good", "bad")]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def seeds(bert, table, tmp_path_factory):
    """A folder with two runs, and what the command printed."""
    out = tmp_path_factory.mktemp("out") / "seeds"
    return out, run("finetune", bert, table, "--out", out, "--seeds", 2, *QUICK)


def run(*arguments):
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_seeds(seeds, bert, table):
    out, done = seeds
    assert done.exit_code == 0
    assert "2 seeds, mean ± standard deviation:" in done.stdout
    assert "The best by dev accuracy is seed-" in done.stdout
    assert "seed-1 (2 of 2)" in done.stderr
    again = run("finetune", bert, table, "--out", out, "--seeds", 2, *QUICK, "--json")
    assert json.loads(again.stdout) == json.loads((out / "metrics.json").read_text())


def test_seeds_and_resume_do_not_go_together(seeds):
    done = run("finetune", "--resume", seeds[0] / "seed-0", "--seeds", 2)
    assert done.exit_code == 2
    assert "goes alone" in done.stderr


@pytest.mark.parametrize("more", [["--epochs", "5"], ["--test", "0.1"], ["--task", "tag"], ["--dev", "9"]])
def test_what_a_run_goes_on_with_is_not_given_again(seeds, more):
    done = run("finetune", "--resume", seeds[0] / "seed-0", *more)
    assert done.exit_code == 2
    assert "goes alone" in done.stderr


def test_a_file_is_no_text_to_predict(seeds, table):
    done = run("predict", seeds[0] / "seed-0", table)
    assert done.exit_code == 2
    assert f"--data {table}" in done.stderr.replace("\n", "")


def test_search(bert, table, tmp_path):
    space = "learning_rate=1e-5,1e-3 train=head,all"
    done = run("search", bert, table, "--out", tmp_path / "a", "--space", space, *QUICK, "--test", "4")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["trial", "dev", "accuracy", "learning_rate", "train"]
    best = lines[1].split()[0]
    assert f"The best model is {tmp_path / 'a' / best}" in done.stdout
    assert "test rows, the best trial: loss" in done.stdout
    assert "trial-003 (4 of 4)  learning_rate 0.001  train all" in done.stderr
    again = run("search", bert, table, "--out", tmp_path / "a", "--space", space, *QUICK, "--test", "4", "--json")
    assert json.loads(again.stdout)["best"] == best
    assert len(json.loads(again.stdout)["trials"]) == 4


def test_find_lr(bert, table, tmp_path):
    done = run("find-lr", bert, table, "--batch-size", "4", "-o", tmp_path / "rates.svg")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1].startswith("1.0e-07  ")
    assert "--learning-rate " in done.stdout or "no rate to suggest" in done.stdout
    assert "<svg" in (tmp_path / "rates.svg").read_text()
    assert run("find-lr", bert, table, "-o", tmp_path / "rates.svg").exit_code == 2
    found = json.loads(run("find-lr", bert, table, "--batch-size", "4", "--json").stdout)
    assert len(found["rates"]) == len(found["losses"]) > 50


def test_compare(seeds, table):
    folder, _ = seeds
    done = run("compare", folder / "seed-0", folder / "seed-1")
    assert done.exit_code == 0
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("seed ")] == [["seed", "0", "1"]]
    assert "accuracy on the dev rows of both, 6:" in done.stdout
    assert "Of the luck of the seed, finetune --seeds tells." in done.stdout
    found = json.loads(run("compare", folder / "seed-0", folder / "seed-1", "--data", table, "--json").stdout)
    assert found["rows"] == 20
    assert found["differences"] == {"seed": [0, 1]}
    assert found["verdict"].endswith(".")


@pytest.mark.parametrize("name", ["search", "find-lr", "compare"])
def test_each_explains_itself(name):
    done = run(name, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout
