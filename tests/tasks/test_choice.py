"""Multiple choice: the loss of transformers, choices that are learned, and rows that are refused."""

import pytest
import torch
import transformers
from small_task_models import WORDS, bert, load, mean_and_parts, overfit, roberta, their_loss

import minitransformer as mt
from minitransformer.errors import DataError, InputError
from minitransformer.tasks import Row
from minitransformer.tasks.choice import Choice, Chosen
from minitransformer.tasks.inference import predict

CLASSES = {"bert": transformers.BertForMultipleChoice, "roberta": transformers.RobertaForMultipleChoice}


def made_up():
    """The right choice is the one that repeats the prompt's word."""
    generator = torch.Generator().manual_seed(3)
    for number in range(16):
        words = [WORDS[i] for i in torch.randperm(len(WORDS), generator=generator)[:3].tolist()]
        choices = [words[0] + " very" * (number % 3), *words[1:]]
        order = torch.randperm(3, generator=generator).tolist()
        yield Row(prompt=f"the film {words[0]}", choices=[choices[i] for i in order], label=order.index(0))


ROWS = list(made_up())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    return {"bert": bert(home / "bert"), "roberta": roberta(home / "roberta")}


@pytest.mark.parametrize("family", CLASSES)
def test_the_loss_is_transformers(family, folders, tmp_path):
    model = load(folders[family], Choice.kind.head)
    task = Choice(model.tokenizer, 16)
    batch = task.collate(task.encode(ROWS))
    assert batch["input_ids"].shape[:2] == (16, 3)
    whole, parts = mean_and_parts(task, model.transformer, batch)
    expected = their_loss(CLASSES[family], model, batch, tmp_path / "ours")
    assert whole == pytest.approx(expected, abs=1e-9)
    assert parts == pytest.approx(expected, abs=1e-9)


def test_inputs_are_transformers(folders):
    """Each choice is the second text of a pair, cut to the length; all are padded to one width."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["bert"])
    task = Choice(mt.load(folders["bert"], head=Choice.kind.head).tokenizer, 8)
    examples = task.encode(ROWS)
    batch = task.collate(examples)
    prompts, choices = [row["prompt"] for row in ROWS for _ in range(3)], [x for row in ROWS for x in row["choices"]]
    expected = tokenizer(prompts, choices, truncation=True, max_length=8, padding=True, return_tensors="pt")
    for name, x in expected.items():
        assert torch.equal(batch[name].flatten(0, 1), x), name
    assert any(example.lost for example in examples)
    longest = expected["attention_mask"].sum(1).view(16, 3).amax(1)
    assert [len(example) for example in examples] == (3 * longest).tolist()


def test_choices_are_learned_and_predicted(folders):
    torch.manual_seed(0)
    model = mt.load(folders["bert"], head=Choice.kind.head)
    task = Choice(model.tokenizer, 16)
    assert overfit(task, model.transformer, ROWS, steps=80) < 1e-2
    answers = predict(
        model.transformer, task, [task.row((row["prompt"], row["choices"])) for row in ROWS], batch_size=5
    )
    assert [answer.index for answer in answers] == [row["label"] for row in ROWS]
    assert [answer.choice for answer in answers] == [row["choices"][row["label"]] for row in ROWS]
    assert answers[0] == Chosen(ROWS[0]["prompt"], answers[0].choice, ROWS[0]["label"], pytest.approx(1, abs=0.05))
    assert task.score(answers, ROWS) == {"accuracy": 1.0}
    wrong = [Chosen("", "", (row["label"] + (place < 4)) % 3, 1.0) for place, row in enumerate(ROWS)]
    assert task.score(wrong, ROWS) == {"accuracy": 0.75}


def test_smoothed_labels(folders):
    model = load(folders["bert"], Choice.kind.head)
    task = Choice(model.tokenizer, 16, label_smoothing=0.1)
    batch = task.collate(task.encode(ROWS))
    with torch.no_grad():
        logits = model(**{name: x for name, x in batch.items() if name != "labels"}).logits
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"], label_smoothing=0.1)
    assert mean_and_parts(task, model.transformer, batch)[1] == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a", "b"], "label": 0}, "it has 2 'choices', expected 3, as in a.csv, line 2"),
        ({"choices": ["a"], "label": 0}, "it has 1 'choices', expected at least 2"),
        ({"choices": "abc", "label": 0}, "'choices' is 'abc', expected a list of texts"),
        ({"choices": ["a", "b", "c"], "label": 3}, "'label' is 3, expected the place of a choice, 0 to 2"),
        ({"choices": ["a", "b", "c"], "label": -1}, "'label' is -1, expected the place of a choice"),
        ({"choices": ["a", "b", "c"], "label": 0.5}, "'label' is 0.5, expected the place of a choice"),
        ({"choices": ["a", "b", "c"], "label": "b"}, "'label' is 'b', expected a number"),
        ({"choices": ["a", "b", "c"]}, "'label' is not among the columns prompt, choices"),
        ({"prompt": "", "choices": ["a", "b", "c"], "label": 0}, "'prompt' is '', expected a text"),
    ],
)
def test_bad_rows(folders, row, message):
    task = Choice(mt.load(folders["bert"], head=Choice.kind.head).tokenizer, 16)
    rows = [Row(ROWS[0], where="a.csv, line 2"), Row({"prompt": "film", **row}, where="a.csv, line 7")]
    with pytest.raises(DataError, match=f"a.csv, line 7: {message}"):
        task.encode(rows)


def test_what_is_no_prompt_with_choices(folders):
    task = Choice(mt.load(folders["bert"], head=Choice.kind.head).tokenizer, 16)
    with pytest.raises(InputError, match="got 'film', expected a tuple of a prompt and a list of choices"):
        task.row("film")
