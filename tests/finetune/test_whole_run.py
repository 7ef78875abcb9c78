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

import minitransformer as mt
from minitransformer.errors import DataError, MiniTransformerError
from minitransformer.finetune.recipe import Recipe
from minitransformer.parity.predictions import transformers_labels

RECIPE = Recipe(epochs=4, batch_size=8, learning_rate=2e-3)


@pytest.fixture
def table(tmp_path, rows):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"{row.text},{row.label}\n" for row in rows))
    return path


def test_from_a_file_to_a_folder_that_transformers_reads(small_bert, table, tmp_path, rows):
    seen = []
    out = tmp_path / "runs" / "a"
    run = mt.finetune(small_bert, "classify", table, out=out, held_out=0.2, recipe=RECIPE, watch=seen.append)
    assert (run.train_rows, run.held_out_rows) == (96, 24)
    assert run.accuracy > 0.9
    assert list(run.steps) == seen

    texts = [row.text for row in rows]
    now = [prediction.label for prediction in run.model.predict(texts)]
    assert [prediction.label for prediction in mt.load(out).predict(texts)] == now
    assert transformers_labels(out, texts) == now
    config = transformers.AutoConfig.from_pretrained(out)
    assert config.id2label == {0: "negative", 1: "positive"}
    assert config.architectures == ["BertForSequenceClassification"]

    figures = json.loads((out / "run.json").read_text())
    assert figures["accuracy"] == run.accuracy
    assert figures["recipe"]["epochs"] == 4
    assert len((out / "log.jsonl").read_text().splitlines()) == len(seen) == 48


def test_predict_keeps_the_order_of_the_texts_and_counts_what_it_cuts(small_bert):
    torch.manual_seed(0)
    model = mt.load(small_bert, head="sequence-classification", labels=3)
    texts = ["good " * n for n in (3, 1, 31, 2, 8)]
    with pytest.warns(UserWarning, match="1 of 5 texts are longer than 32 tokens"):
        together = model.predict(texts, batch_size=2)
    assert [prediction.text for prediction in together] == texts
    one_by_one = [model.predict(text)[0] for text in texts if len(text) < 100]
    kept = [prediction for prediction in together if len(prediction.text) < 100]
    assert [p.label for p in kept] == [p.label for p in one_by_one]
    assert [p.score for p in kept] == pytest.approx([p.score for p in one_by_one], abs=1e-6)
    assert model.predict([]) == []


def test_predict_needs_a_classifier(small_bert):
    with pytest.raises(MiniTransformerError, match="the head base, expected sequence-classification"):
        mt.load(small_bert).predict("good")


def test_what_is_wrong_is_said_before_the_work(small_bert, table, tmp_path):
    with pytest.raises(DataError, match="task: got 'summarise'"):
        mt.finetune(small_bert, "summarise", table, out=tmp_path / "a")
    with pytest.raises(DataError, match="no column 'stars'"):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "a", label="stars")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(MiniTransformerError, match="not empty; give a new folder"):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "full")
    (tmp_path / "b.csv").write_text("text,label\ngood,neutral\n")
    with pytest.raises(DataError, match="unknown labels"):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "a", held_out=tmp_path / "b.csv")
    assert sorted(os.listdir(tmp_path / "full")) == ["thesis.txt"]
    assert not (tmp_path / "a").exists()


def test_ctrl_c_leaves_no_folder(small_bert, table, tmp_path):
    command = [sys.executable, "-m", "minitransformer", "finetune", small_bert, table, "--out", tmp_path / "out"]
    process = subprocess.Popen(
        [*map(str, command), "--epochs", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(1)
    for _ in range(600):  # until the training has begun; then stop it in the middle
        time.sleep(0.1)
        if any(part.startswith("libtorch_cpu") or "/libtorch_cpu" in part for part in _mapped(process.pid)):
            break
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert sorted(os.listdir(tmp_path)) == ["rows.csv"]


def _mapped(pid):
    with open(f"/proc/{pid}/maps") as lines:
        return [line.split()[-1] for line in lines]


def test_the_same_seed_gives_the_same_run_head_and_all_and_leaves_the_callers_generator(small_bert, table, tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(4)
    torch.manual_seed(11)
    runs = [
        mt.finetune(small_bert, "classify", table, out=tmp_path / name, recipe=Recipe(epochs=1, seed=seed))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert torch.equal(torch.rand(4), expected)
    losses = [[step["loss"] for step in run.steps] for run in runs]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_a_held_out_share_is_between_0_and_1(small_bert, table, tmp_path, share):
    with pytest.raises(DataError, match="held-out share"):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "a", held_out=share)


def test_a_place_that_cannot_be_written_to_is_refused_and_nothing_is_made_before_the_end(small_bert, table, tmp_path):
    with pytest.raises(MiniTransformerError, match=r"rows\.csv is no folder"):
        mt.finetune(small_bert, "classify", table, out=table / "a")
    with pytest.raises(DataError):
        mt.finetune(small_bert, "classify", table, out=tmp_path / "x" / "y", label="none")
    assert not (tmp_path / "x").exists()


def test_predict_refuses_heads_without_one_label_for_each_text(small_bert):
    with pytest.raises(MiniTransformerError, match="regresses"):
        mt.load(small_bert, head="sequence-classification", labels=1).predict("good")
    several = {"problem_type": "multi_label_classification"}
    with pytest.raises(MiniTransformerError, match="several labels"):
        mt.load(small_bert, head="sequence-classification", labels=3, config=several).predict("good")
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
