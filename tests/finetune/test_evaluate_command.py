"""`evaluate`: scores, each class, the confusion matrix, the worst answers; as scikit-learn and seqeval count."""

import json

import pytest
import seqeval.metrics
import sklearn.metrics
from small_tasks import READERS, rows_of, write_model
from typer.testing import CliRunner

import minitransformer as mt
from minitransformer.cli import app

COUNTS = {"rows": "support", "entities": "support", "f1": "f1-score"}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """run_of("tag"): the folder of a short run, a file of its rows, and the rows."""

    def run_of(task):
        home = tmp_path_factory.mktemp(task)
        rows = rows_of(task, home)
        (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        model = write_model(home / "model", READERS.get(task, "bert"))
        mt.finetune(model, task, home / "rows.jsonl", out=home / "run", dev=4, epochs=4, learning_rate=3e-3)
        return home / "run", home / "rows.jsonl", rows

    return run_of


def evaluate(*arguments):
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_classes(run_of):
    folder, file, rows = run_of("classify")
    found = json.loads(evaluate(folder, "--data", file, "--json"))
    right = [row["label"] for row in rows]
    answers = [answer.label for answer in mt.load(folder).predict([row["text"] for row in rows])]
    report = sklearn.metrics.classification_report(right, answers, output_dict=True, zero_division=0)
    assert found["metrics"]["accuracy"] == pytest.approx(report["accuracy"])
    for label, scores in found["per_label"].items():
        for name, value in scores.items():
            assert value == pytest.approx(report[label][COUNTS.get(name, name)]), (label, name)
    assert found["confusion"]["counts"] == sklearn.metrics.confusion_matrix(right, answers).tolist()
    wrong = sum(one != other for one, other in zip(answers, right, strict=True))
    assert len(found["worst"]) == min(10, wrong)
    assert len(json.loads(evaluate(folder, "--data", file, "--json", "--worst", 0))["worst"]) == 0
    lines = evaluate(folder, "--data", file).splitlines()
    assert lines[0] == "16 rows"
    for label in "abc":
        scores = [report[label][name] for name in ("precision", "recall", "f1-score")]
        assert [label, *(f"{x:.4f}" for x in scores), f"{report[label]['support']:.0f}"] in map(str.split, lines)


def test_entities(run_of):
    folder, file, rows = run_of("tag")
    found = json.loads(evaluate(folder, "--data", file, "--json"))
    answers = [answer.tags for answer in mt.load(folder).predict([row["words"] for row in rows])]
    right = [row["tags"] for row in rows]
    report = seqeval.metrics.classification_report(right, answers, output_dict=True, zero_division=0)
    assert found["per_label"].keys() == {"film", "who"}
    for label, scores in found["per_label"].items():
        for name, value in scores.items():
            assert value == pytest.approx(report[label][COUNTS.get(name, name)]), (label, name)
    assert found["confusion"] is None
    assert ["precision", "recall", "f1", "entities"] in map(str.split, evaluate(folder, "--data", file).splitlines())


def test_several_labels_at_once(run_of):
    folder, file, rows = run_of("multilabel")
    found = json.loads(evaluate(folder, "--data", file, "--json"))
    answers = [answer.labels for answer in mt.load(folder).predict([row["text"] for row in rows])]
    binary = lambda sets: [[label in one for label in "abc"] for one in sets]
    scores = sklearn.metrics.precision_recall_fscore_support(
        binary(row["labels"] for row in rows), binary(answers), zero_division=0
    )
    for i, label in enumerate("abc"):
        assert list(found["per_label"][label].values()) == pytest.approx([values[i] for values in scores])


@pytest.mark.parametrize(
    ("task", "told"), [("translate", "nrefs:1|case:mixed|"), ("regress", "pearson "), ("span", "")]
)
def test_other_answers(run_of, task, told):
    folder, file, _ = run_of(task)
    found = json.loads(evaluate(folder, "--data", file, "--json"))
    assert found["per_label"] == {}
    shown = evaluate(folder, "--data", file)
    assert told in shown
    assert all(f"{name} " in shown for name in found["metrics"])
