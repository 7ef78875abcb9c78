"""A whole run: from a file of rows to a folder that transformers reads, or to no folder at all."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import transformers
from safetensors.torch import load_file

import minitransformer as mt
from minitransformer.errors import ConfigError, CorruptFileError, DataError, MiniTransformerError, NotFoundError
from minitransformer.finetune import finish as module
from minitransformer.finetune.checkpoints import newest
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.run import resume
from minitransformer.parity.predictions import transformers_labels

RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=2e-3)


@pytest.fixture
def table(tmp_path, rows):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    return path


def test_from_a_file_to_a_folder_that_transformers_reads(small_bert, table, tmp_path, rows):
    seen = []
    out = tmp_path / "runs" / "a"
    run = mt.finetune(small_bert, "classify", table, out=out, dev=0.2, test=10, recipe=RECIPE, watch=seen.append)
    assert run.rows == {"train": 86, "dev": 24, "test": 10}
    assert run.metrics["dev"]["accuracy"] > 0.9
    assert list(run.history) == seen

    texts = [row["text"] for row in rows]
    now = [prediction.label for prediction in run.model.predict(texts)]
    assert [prediction.label for prediction in mt.load(out).predict(texts)] == now
    assert transformers_labels(out, texts) == now
    config = transformers.AutoConfig.from_pretrained(out)
    assert config.id2label == {0: "negative", 1: "positive"}
    assert config.architectures == ["BertForSequenceClassification"]

    assert json.loads((out / "metrics.json").read_text()) == run.metrics
    assert json.loads((out / "recipe.json").read_text())["epochs"] == 4
    assert [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] == seen
    assert "| accuracy |" in (out / "README.md").read_text()
    assert "<svg" in (out / "curves.svg").read_text()
    assert "<svg" in (out / "confusion.svg").read_text()
    again = mt.evaluate(out, table)
    assert again.metrics["accuracy"] > 0.9
    assert sum(map(sum, again.confusion()[0])) == 120


def test_the_best_weights_are_those_that_are_kept(small_bert, table, tmp_path):
    """At a rate that ruins the model in the end, an early evaluation is the best."""
    recipe = {"learning_rate": 0.03, "batch_size": 8, "epochs": 4, "evaluate_every": 0.1, "schedule": "constant"}
    run = mt.finetune(small_bert, "classify", table, out=tmp_path / "a", dev=0.2, metric="loss", **recipe)
    judged = [event for event in run.history if event["event"] == "evaluation"]
    best = [event for event in judged if event["best"]][-1]
    assert best["loss"] == min(event["loss"] for event in judged) < judged[-1]["loss"]
    assert run.metrics["dev"]["loss"] == pytest.approx(best["loss"], rel=1e-6)
    assert mt.evaluate(run.model, table, "classify").metrics["loss"] < 2 * best["loss"]


def test_predict_keeps_the_order_of_the_texts_and_counts_what_it_cuts(small_bert):
    torch.manual_seed(0)
    model = mt.load(small_bert, head="sequence-classification", labels=3)
    texts = ["good " * n for n in (3, 1, 31, 2, 8)]
    with pytest.warns(UserWarning, match="1 of 5 inputs are longer than the model reads"):
        together = model.predict(texts, batch_size=2)
    assert [prediction.text for prediction in together] == texts
    one_by_one = [model.predict(text)[0] for text in texts if len(text) < 100]
    kept = [prediction for prediction in together if len(prediction.text) < 100]
    assert [p.label for p in kept] == [p.label for p in one_by_one]
    assert [p.score for p in kept] == pytest.approx([p.score for p in one_by_one], abs=1e-6)
    assert model.predict([]) == []


def test_predict_needs_a_head(small_bert):
    with pytest.raises(MiniTransformerError, match="the head base, expected sequence-classification"):
        mt.load(small_bert).predict("good")


def test_what_is_wrong_is_said_before_the_work(small_bert, table, tmp_path):
    with pytest.raises(ConfigError, match="task: got 'summarise', expected one of classify"):
        mt.finetune(small_bert, "summarise", table, out=tmp_path / "a")
    with pytest.raises(DataError, match="no column 'stars'"):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "a", columns={"label": "stars"})
    with pytest.raises(ConfigError, match="unknown learningrate"):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "a", learningrate=1)
    with pytest.raises(MiniTransformerError, match="metric: got 'f2', expected one of loss, accuracy"):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "a", metric="f2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(MiniTransformerError, match="not empty; give a new folder"):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "full")
    (tmp_path / "b.csv").write_text("text,label\ngood,neutral\n")
    with pytest.raises(DataError, match=r"b\.csv, line 2: unknown label 'neutral'"):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "a", dev=tmp_path / "b.csv")
    with pytest.raises(MiniTransformerError, match=r"rows\.csv is no folder"):
        mt.finetune(small_bert, "classify", table, out=table / "a")
    assert sorted(os.listdir(tmp_path / "full")) == ["thesis.txt"]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("dev", [-0.5, float("nan"), 1.5, 120])
def test_a_share_leaves_rows_to_train_on(small_bert, table, tmp_path, dev):
    with pytest.raises(DataError, match="dev"):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "a", dev=dev)


def test_a_run_goes_on_only_with_its_own_recipe_and_rows(small_bert, table, tmp_path, rows):
    out = tmp_path / "a"
    mt.finetune(small_bert, "classify", table, out=out, epochs=0.1)
    with pytest.raises(MiniTransformerError, match="holds a run already"):
        mt.finetune(small_bert, "classify", table, out=out, epochs=0.1)
    with pytest.raises(DataError, match=r"another recipe: epochs was 0\.1, is 0\.2"):
        mt.finetune(small_bert, "classify", table, out=out, epochs=0.2, resume=True)
    with pytest.raises(DataError, match="other data: sha256 was"):
        mt.finetune(small_bert, "classify", rows[:100], out=out, epochs=0.1, resume=True)
    with pytest.raises(NotFoundError, match=r"no recipe\.json there"):
        resume(tmp_path)


def start_run(small_bert, table, out, *options):
    """A process that trains, once it has made a few steps."""
    command = [sys.executable, "-m", "minitransformer", "finetune", small_bert, table, "--out", out]
    process = subprocess.Popen(
        [*map(str, command), "--epochs", "200", "--learning-rate", "1e-3", *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},  # more threads add in another order
    )  # fmt: skip
    log = out / "log.jsonl"
    for _ in range(1200):
        time.sleep(0.05)
        if log.exists() and len(log.read_text().splitlines()) > 5:
            return process
    process.kill()
    raise AssertionError(process.communicate())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_stops_and_the_run_goes_on(small_bert, table, tmp_path, number, code):
    process = start_run(small_bert, table, tmp_path / "out")
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert "Traceback" not in told
    assert "go on with --resume" in told
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert newest(tmp_path / "out" / "checkpoints").name == f"step-{steps[-1]:06d}"


def test_interrupted_and_resumed_is_as_good_as_in_one_go(small_bert, table, tmp_path):
    """Killed without warning in one process, resumed in another: the very bits of a run in one go."""
    options = {"epochs": 6, "learning_rate": 1e-3, "batch_size": 8}
    whole = mt.finetune(small_bert, "classify", table, out=tmp_path / "whole", **options)
    flags = ["--epochs", "6", "--batch-size", "8", "--save-every", "3"]
    process = start_run(small_bert, table, tmp_path / "parts", *flags)
    process.kill()
    process.communicate()
    run = resume(tmp_path / "parts")
    assert run.metrics == whole.metrics
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(left[name], right[name]) for name in left)
    strip = lambda history: [
        {k: v for k, v in event.items() if "per_second" not in k} for event in history if event["event"] != "saved"
    ]
    assert strip(run.history) == strip(whole.history)


def test_the_same_seed_gives_the_same_run_head_and_all_and_leaves_the_callers_generator(small_bert, table, tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    runs = [
        mt.finetune(small_bert, "classify", table, out=tmp_path / name, epochs=1, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert torch.equal(torch.rand(4), expected)
    losses = [[event["loss"] for event in run.history if event["event"] == "step"] for run in runs]
    assert losses[0] == losses[1] != losses[2]


def test_a_saved_folder_that_answers_otherwise_is_no_success(small_bert, table, tmp_path, monkeypatch):
    """Should saving ever spoil the weights, the run says so."""
    real = module.load

    def spoiled(name, **options):
        model = real(name, **options)
        with torch.no_grad():
            model.transformer.head.cls.weight.neg_()
        return model

    monkeypatch.setattr(module, "load", spoiled)
    with pytest.raises(CorruptFileError, match="answers 12 of 12 rows otherwise"):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "a", epochs=3, learning_rate=1e-3, batch_size=8)


def test_predict_needs_something_in_a_batch(small_bert):
    with pytest.raises(MiniTransformerError, match="batch_size"):
        mt.load(small_bert, head="sequence-classification").predict("good", batch_size=0)


def test_a_gpt2_classifier_can_be_batched_by_transformers(tmp_path):
    """GPT-2 has no padding; as a classifier it gets one, and transformers reads it from the saved folder."""
    import tokenizers

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())  # one for each byte
    alphabet = {letter: i for i, letter in enumerate([*letters, "<|endoftext|>"])}
    tokenizers.Tokenizer(tokenizers.models.BPE(alphabet, [])).model.save(str(tmp_path))
    config = transformers.GPT2Config(vocab_size=257, n_embd=8, n_layer=1, n_head=2)
    config.bos_token_id = config.eos_token_id = 256
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    model = mt.load(tmp_path, head="sequence-classification", labels=["no", "yes"])
    model.save(tmp_path / "saved")
    texts = ["ab", "abc def", "g"]
    assert transformers_labels(tmp_path / "saved", texts) == [p.label for p in model.predict(texts)]
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["pad_token_id"] == 256
