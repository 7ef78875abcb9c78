"""Regression: the loss of transformers, numbers that are learned, and rows that are refused."""

import pytest
import torch
import transformers
from small_task_models import bert, load, mean_and_parts, overfit, their_loss

import minitransformer as mt
from minitransformer.errors import DataError
from minitransformer.tasks import Row
from minitransformer.tasks.inference import predict
from minitransformer.tasks.regress import Estimate, Regress

TEXTS = ["a film", "the plot was good", "not very good", "bad", "it was awful in a film", "dull", "great film", "fine"]
ROWS = [Row(text=text, label=place / 4 - 1.1) for place, text in enumerate(TEXTS)]
ROWS += [Row(text=f"{text} the plot", label=str(row["label"] * 2)) for text, row in zip(TEXTS, ROWS, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def model(folder):
    return load(folder, Regress.kind.head, labels=1, config=Regress.kind.config)


@pytest.mark.parametrize("pairs", [False, True])
def test_the_loss_is_transformers(model, tmp_path, pairs):
    task = Regress(model.tokenizer, 12)
    rows = [Row(row, pair=other["text"]) if pairs else row for row, other in zip(ROWS, ROWS[::-1], strict=True)]
    batch = task.collate(task.encode(rows))
    whole, parts = mean_and_parts(task, model.transformer, batch)
    expected = their_loss(transformers.BertForSequenceClassification, model, batch, tmp_path / "ours")
    assert whole == pytest.approx(expected, abs=1e-9)
    assert parts == pytest.approx(expected, abs=1e-9)


def test_numbers_are_learned_and_predicted(folder):
    torch.manual_seed(0)
    model = mt.load(folder, head=Regress.kind.head, labels=1, config=Regress.kind.config)
    task = Regress(model.tokenizer, 16)
    assert overfit(task, model.transformer, ROWS, steps=80) < 1e-2
    answers = predict(model.transformer, task, [task.row(row["text"]) for row in ROWS], batch_size=5)
    assert answers[0] == Estimate("a film", pytest.approx(-1.1, abs=0.4))
    scores = task.score(answers, ROWS)
    assert scores["pearson"] > 0.99
    assert scores["mse"] < 1e-2
    assert task.score([Estimate("", row.number("label")) for row in ROWS], ROWS)["mse"] == 0


def test_a_text_and_its_pair(model):
    task = Regress(model.tokenizer, None)
    ids = task.encode([task.row(("good film", "bad"))], targets=False)[0].inputs["input_ids"]
    assert model.tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "good", "film", "[SEP]", "bad", "[SEP]"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "good"}, "a.csv, line 7: 'label' is not among the columns text, expected a number"),
        ({"text": "good", "label": "high"}, "a.csv, line 7: 'label' is 'high', expected a number"),
        ({"text": "good", "label": "nan"}, "a.csv, line 7: 'label' is nan, expected a finite number"),
        ({"text": " ", "label": 1}, "a.csv, line 7: 'text' is ' ', expected a text"),
    ],
)
def test_bad_rows(model, row, message):
    with pytest.raises(DataError, match=message):
        Regress(model.tokenizer, 12).encode([ROWS[0], Row(row, where="a.csv, line 7")])
