"""The command line as a user meets it: each command in a process of its own."""

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers

import minitransformer as mt
from minitransformer.cli.picture import heatmap


def run(*arguments, **options):
    """Run `minitransformer ARGUMENTS` in a new process."""
    return subprocess.run(
        [sys.executable, "-m", "minitransformer", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "100", "HF_HUB_OFFLINE": "1"},
        **options,
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=12, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return folder


def test_help_does_not_import_torch():
    code = (
        "import sys; from minitransformer.cli import app; print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
    done = run("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("quickstart", "inspect", "families", "parity", "finetune", "predict"))


@pytest.mark.parametrize("name", ["quickstart", "inspect", "families", "parity", "finetune", "predict"])
def test_each_command_explains_itself(name):
    done = run(name, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, minitransformer as mt; print('torch' in sys.modules, 'numpy' in sys.modules);"
        "import minitransformer.parity, minitransformer.finetune; print(callable(mt.parity), callable(mt.finetune));"
        "import minitransformer.finetune.run; print(callable(mt.finetune), callable(mt.load))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "True", "True", "True"]


def test_the_public_names_are_there():
    for name in mt.__all__:
        assert getattr(mt, name) is not None
    assert set(mt.__all__) <= set(dir(mt))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mt.nonsense


def test_inspect(classifier):
    done = run("inspect", classifier)
    assert done.returncode == 0, done.stderr
    for told in ("family   bert, head sequence-classification", "encoder.layers.{i}.self_attn.q", "embed.tokens"):
        assert told in done.stdout
    data = json.loads(run("inspect", classifier, "--json").stdout)
    total = transformers.BertForSequenceClassification.from_pretrained(classifier).num_parameters()
    assert sum(data["parameters"].values()) == total
    assert data["config"]["encoder"]["heads"] == 2
    (entry,) = (entry for entry in data["plan"] if entry["file"] == "classifier.bias")
    assert (entry["ours"], entry["transpose"], entry["shape"]) == (["head.cls.bias"], False, [2])


def test_inspect_says_what_is_unused_and_why(classifier):
    report = json.loads(run("inspect", classifier, "--head", "token-classification", "--json").stdout)["report"]
    assert report["ignored"]["bert.pooler.dense.weight"] == "this head does not read the pooler"


def test_predict_from_arguments_and_from_standard_input(classifier):
    texts = ["good good", "bad"]
    expected = [prediction.label for prediction in mt.load(classifier).predict(texts)]
    told = [json.loads(line) for line in run("predict", classifier, *texts, "--json").stdout.splitlines()]
    assert [row["label"] for row in told] == expected
    piped = run("predict", classifier, input="good good\nbad\n")
    assert [line.split()[0] for line in piped.stdout.splitlines()] == expected


def test_answers_to_a_file_and_a_place_that_is_none(classifier, tmp_path):
    assert run("predict", classifier, "good", "bad", "--out", tmp_path / "answers.jsonl").stdout == ""
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
    nowhere = tmp_path / "none" / "answers.jsonl"
    done = run("predict", "/no/model/either", "good", "--out", nowhere)  # the place is looked at first
    assert done.returncode == 74
    assert done.stderr.startswith(f"minitransformer: {nowhere}: no place for a file")


def test_answers_do_not_replace_the_rows(classifier, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("text\ngood\n")
    assert run("predict", classifier, "--data", rows, "--out", rows).returncode == 2
    assert rows.read_text() == "text\ngood\n"


def test_finetune_and_then_predict(classifier, tmp_path):
    lines = "".join(f"{'good ' * n}\tplus\n{'bad ' * n}\tminus\n" for n in range(1, 11))
    (tmp_path / "rows.tsv").write_text("text\tlabel\n" + lines)
    done = run("finetune", classifier, tmp_path / "rows.tsv", "--out", tmp_path / "run", "--epochs", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == {"train": 18, "dev": 2, "test": 0}
    assert run("predict", tmp_path / "run", "good").stdout.split()[0] in ("plus", "minus")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("inspect", "/nowhere/at/all"), "no such folder"),
        (("inspect", "some-org/some-model"), "some-org/some-model"),
        (("inspect", "package:no-such-package"), "no package no_such_package"),
        (("predict", "/nowhere", "text"), "no such folder"),
        (("parity", "/nowhere"), "no such folder"),
        (("finetune", "/nowhere", "/none.csv", "--out", "/tmp/never-made/run"), "no none.csv in /"),
    ],
)
def test_an_error_is_one_message_and_exit_code_2(arguments, told, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.startswith("minitransformer: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert os.listdir(tmp_path) == []


def test_wrong_usage_is_exit_code_2(classifier):
    assert run("predict").returncode == 2
    assert run("nonsense").returncode == 2
    assert run("finetune", classifier, "x.csv").returncode == 2


def test_a_heatmap_is_as_dark_as_its_weights():
    picture = heatmap([[1.0, 0.0, 0.0], [0.3, 0.6, 0.1], [0.04, 0.2, 0.76]], ["[CLS]", "日本", "cat"]).splitlines()
    assert len(picture) == 4
    assert picture[0].split() == ["0", "1", "2"]
    cells = [line[-8:] for line in picture[1:]]
    assert cells == ["██      ", "▒▒ ▓▓ ░░", "   ░░ ██"]
