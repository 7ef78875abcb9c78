"""Several labels at once: the loss of transformers, labels that are learned, and rows that are refused."""

import pytest
import torch
import transformers
from small_task_models import WORDS, bert, load, mean_and_parts, overfit, their_loss

import minitransformer as mt
from minitransformer.errors import DataError
from minitransformer.tasks import Row
from minitransformer.tasks.inference import predict
from minitransformer.tasks.multilabel import Labels, Multilabel

# Each text has the labels of those of its words that are labels.
LABELS = ("awful", "dull", "good", "great")
generator = torch.Generator().manual_seed(3)
DRAWN = [[WORDS[i] for i in torch.randperm(len(WORDS), generator=generator)[: 3 + n % 4].tolist()] for n in range(15)]
ROWS = [Row(text=" ".join(words), labels=[x for x in words if x in LABELS]) for words in [*DRAWN, LABELS]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def model(folder):
    return load(folder, Multilabel.kind.head, labels=LABELS, config=Multilabel.kind.config)


def test_the_labels_of_rows():
    assert Multilabel.kind.labels_of(ROWS) == LABELS
    assert any(row["labels"] == [] for row in ROWS)
    with pytest.raises(DataError, match=r"labels: got 1 \(good\), expected 2 to 1000"):
        Multilabel.kind.labels_of([Row(text="a", labels=["good"]), Row(text="a", labels=[])])


def test_the_loss_is_transformers(model, tmp_path):
    task = Multilabel(model.tokenizer, LABELS, 12)
    batch = task.collate(task.encode(ROWS))
    assert batch["labels"].sum() == sum(len(row["labels"]) for row in ROWS)
    whole, parts = mean_and_parts(task, model.transformer, batch)
    batch["labels"] = batch["labels"].double()  # else their loss is float32, whatever the model is
    expected = their_loss(transformers.BertForSequenceClassification, model, batch, tmp_path / "ours")
    assert whole == pytest.approx(expected, abs=1e-9)
    assert parts == pytest.approx(expected, abs=1e-9)


def test_labels_are_learned_and_predicted(folder):
    torch.manual_seed(0)
    model = mt.load(folder, head=Multilabel.kind.head, labels=LABELS, config=Multilabel.kind.config)
    task = Multilabel(model.tokenizer, LABELS, 16)
    assert overfit(task, model.transformer, ROWS, steps=160) < 1e-2
    answers = predict(model.transformer, task, [task.row(row["text"]) for row in ROWS], batch_size=5)
    assert [set(answer.labels) for answer in answers] == [set(row["labels"]) for row in ROWS]
    assert list(answers[0].scores) == list(LABELS)
    assert task.score(answers, ROWS)["f1_micro"] == 1
    nothing = [Labels(row["text"], (), {}) for row in ROWS]
    assert task.score(nothing, ROWS)["f1_micro"] == 0


def test_a_label_of_half_is_chosen(model):
    task = Multilabel(model.tokenizer, LABELS, 12)
    answer = task.answers([ROWS[0]], [], [[0.5, 0.49, 0.0, 1.0]])[0]
    assert answer.labels == ("awful", "great")
    assert answer.scores == {"awful": 0.5, "dull": 0.49, "good": 0.0, "great": 1.0}


def test_probabilities_are_transformers(model, tmp_path):
    task = Multilabel(model.tokenizer, LABELS, 12)
    batch = task.collate(task.encode(ROWS, targets=False))
    model.save(tmp_path / "ours")
    theirs = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "ours", dtype=torch.float64)
    assert theirs.config.problem_type == "multi_label_classification"
    with torch.no_grad():
        expected = theirs(**batch).logits.sigmoid()
        found = torch.tensor(task.decode(model.transformer, batch))
    torch.testing.assert_close(found, expected.float(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("good", "a.csv, line 7: 'labels' is 'good', expected a list of names"),
        (None, "a.csv, line 7: 'labels' is None, expected a list of names"),
        ([["good"]], r"a.csv, line 7: 'labels' is \['good'\], expected the name of a class"),
        (["good", "odd"], "a.csv, line 7: unknown label 'odd', expected one of awful, dull, good, great"),
    ],
)
def test_bad_rows(model, labels, message):
    task = Multilabel(model.tokenizer, LABELS, 12)
    with pytest.raises(DataError, match=message):
        task.encode([ROWS[0], Row(text="good", labels=labels, where="a.csv, line 7")])


def test_no_column_of_labels(model):
    with pytest.raises(DataError, match=r"a.csv, line 7: 'labels' is not among the columns text, expected a list"):
        Multilabel(model.tokenizer, LABELS, 12).encode([Row(text="good", where="a.csv, line 7")])
