"""What heads are judged by: numbers of outputs, and the examples that data become. The losses are transformers'."""

import numpy as np
import pytest
import torch
import transformers
from lens_models import KINDS, PAIR, TEXT, folder, image, loaded
from small_readers import reader

import minitransformer as mt
from minitransformer.errors import DataError, InputError
from minitransformer.lens.examples import examples
from minitransformer.lens.interventions import rows_of
from minitransformer.lens.metric import distance, logit, value_of
from minitransformer.model import Output

OTHER = "A cat."


def theirs(kind):
    return getattr(transformers, KINDS[kind][1]).from_pretrained(folder(kind), attn_implementation="eager").eval()


def losses(kind, data, metric=None):
    name, found = examples(loaded(kind), data, metric)
    with torch.no_grad():
        return name, [float(value_of(each.metric, loaded(kind)(**each.batch))) for each in found]


@pytest.mark.parametrize("number", [1, 1.5, True, np.float32(2), torch.tensor(3.0), torch.tensor([[4]])])
def test_a_metric_gives_a_number(number):
    value = value_of(lambda output: number, Output())
    assert value.shape == ()
    assert float(value) == float(number)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (None, "NoneType"),
        ("0.5", "str"),
        ([0.5], "list"),
        (torch.zeros(3, 5), r"a tensor of shape \[3, 5\]"),
        (torch.zeros(0), r"a tensor of shape \[0\]"),
        (torch.tensor(1j), "a tensor"),
        (np.zeros(2), "ndarray"),
    ],
)
def test_a_metric_that_gives_no_number_is_told(answer, shown):
    with pytest.raises(InputError, match=rf"metric: it returned {shown}.*expected a number.*lambda output"):
        value_of(lambda output: answer, Output())


@torch.no_grad()
def test_the_logit_of_an_answer():
    model = loaded("gpt2")
    reading = model.read(TEXT)
    output = model(**reading.batch)
    right, wrong = (model.tokenizer.encode(word)[0] for word in ("a", "b"))
    name, metric = logit(model, reading, output, "a", "b")
    assert float(metric(output)) == float(output.logits[0, -1, right] - output.logits[0, -1, wrong])
    assert "a" in name
    _, alone = logit(model, reading, output, "a", position=2)
    assert float(alone(output)) == float(output.logits[0, 2, right])
    _, own = logit(model, reading, output, None)
    assert float(own(output)) == float(output.logits[0, -1].max())


def test_the_distance_of_hidden_states():
    old, new = torch.randn(2, 1, 5, 8).unbind()
    real = torch.tensor([[True, True, False, True, False]])
    metric = distance(Output(last_hidden_state=old), real)
    expected = np.linalg.norm((new - old)[0, [0, 1, 3]].numpy(), axis=-1).mean()
    assert float(metric(Output(last_hidden_state=new))) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@torch.no_grad()
def test_the_loss_of_a_text_is_that_of_its_next_tokens(kind):
    name, (one, other) = losses(kind, [TEXT, OTHER])
    model = theirs(kind)
    for text, loss in ((TEXT, one), (OTHER, other)):
        ids = loaded(kind).tokenizer(text)["input_ids"]
        assert loss == pytest.approx(float(model(input_ids=ids, labels=ids).loss), abs=1e-5)
    assert name == "loss"


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_predicted_and_predicts_nothing(side):
    batch = loaded("gpt2").tokenizer([TEXT, OTHER], padding_side=side)
    if side == "left":
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    assert losses("gpt2", batch)[1] == pytest.approx(losses("gpt2", [TEXT, OTHER])[1], abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_every_token_of_a_masked_model_is_guessed_once(kind):
    model = loaded(kind)
    ids = model.tokenizer(TEXT)["input_ids"]
    _, found = examples(model, TEXT)
    labels = torch.cat([each.batch["labels"] for each in found])  # [turns T]
    assert len(found) == 7
    assert torch.equal((labels != -100).sum(0), torch.tensor([0, *[1] * (ids.shape[1] - 2), 0]))
    assert torch.equal(labels.amax(0)[1:-1], ids[0, 1:-1])
    for each, row in zip(found, labels, strict=True):
        assert (each.batch["input_ids"][0][row != -100] == model.tokenizer.mask_token_id).all()
        assert torch.equal(each.batch["input_ids"][0][row == -100], ids[0][row == -100])
        assert (row != -100).sum() <= len(row) * 0.2
    with torch.no_grad():
        expected = [float(theirs(kind)(**each.batch).loss) for each in found]
    assert losses(kind, TEXT)[1] == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_labels_of_a_classifier():
    model, other = loaded("classifier"), theirs("classifier")
    batch = model.tokenizer(TEXT)
    for number, label in enumerate(model.labels):
        expected = float(other(**batch, labels=torch.tensor([number])).loss)
        assert losses("classifier", (TEXT, label)) == ("loss", [pytest.approx(expected, abs=1e-5)])
        assert losses("classifier", [{"text": TEXT, "label": label}])[1] == [pytest.approx(expected, abs=1e-5)]
        assert losses("classifier", {**batch, "labels": torch.tensor([number])})[1] == [
            pytest.approx(expected, abs=1e-5)
        ]
    own = int(other(**batch).logits.argmax())
    assert losses("classifier", TEXT)[1] == losses("classifier", (TEXT, model.labels[own]))[1]
    pair = {"text": TEXT, "pair": PAIR, "label": model.labels[0]}
    expected = float(other(**model.tokenizer(TEXT, PAIR), labels=torch.tensor([0])).loss)
    assert losses("classifier", pair)[1] == [pytest.approx(expected, abs=1e-5)]


@torch.no_grad()
def test_an_image_is_judged_by_the_models_own_answer():
    pixels = loaded("vit").read(image()).batch["pixel_values"]
    logits = theirs("vit")(pixel_values=pixels).logits
    expected = float(torch.nn.functional.cross_entropy(logits, logits.argmax(-1)))
    assert losses("vit", [image()])[1] == [pytest.approx(expected, abs=1e-5)]


@torch.no_grad()
def test_what_is_written_is_judged():
    model, other = loaded("bart"), theirs("bart")
    ids, target = (model.tokenizer(text)["input_ids"] for text in (TEXT, PAIR))
    assert losses("bart", (TEXT, PAIR))[1] == [pytest.approx(float(other(input_ids=ids, labels=target).loss), abs=1e-4)]
    read = model.read(TEXT).batch["decoder_input_ids"]
    own = losses("bart", TEXT)[1][0]
    logits = other(input_ids=ids, decoder_input_ids=read).logits[0, :-1]
    assert own == pytest.approx(float(torch.nn.functional.cross_entropy(logits, read[0, 1:])), abs=1e-4)


def test_a_model_without_a_loss_is_judged_by_its_distance():
    for kind, data in (("deit", image()), ("t5-base", (TEXT, PAIR))):
        assert losses(kind, data) == ("distance", [0.0])


def test_a_metric_of_your_own_sees_the_text_as_it_is():
    _, (example,) = examples(loaded("bert"), TEXT, lambda output: 1)
    assert torch.equal(example.batch["input_ids"], loaded("bert").tokenizer(TEXT)["input_ids"])
    assert "labels" not in example.batch


@pytest.mark.parametrize("kind", ["bert", "gpt2", "bart", "classifier"])
def test_rows_of_an_output_are_as_if_alone(kind):
    model = loaded(kind)
    batch = {**model.tokenizer([TEXT, TEXT.replace("cat", "dog"), PAIR])}
    wanted = batch["input_ids"] if kind != "classifier" else torch.tensor([0, 1, 0])
    batch["labels"] = torch.where(batch["attention_mask"] == 1, wanted, -100) if kind != "classifier" else wanted
    if kind == "bart":
        del batch["attention_mask"]
    with torch.no_grad():
        rows = rows_of(model.transformer, model(**batch, output_attentions=True), batch, 3)
        for i, row in enumerate(rows):
            alone = model(**{name: x[i : i + 1] for name, x in batch.items()}, output_attentions=True)
            torch.testing.assert_close(row.loss, alone.loss)
            torch.testing.assert_close(row.logits, alone.logits)
            assert row.pooler_output is None or row.pooler_output.shape == alone.pooler_output.shape
            theirs_, mine = ((x.attentions or x.cross_attentions) for x in (alone, row))
            torch.testing.assert_close(mine, theirs_)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("gpt2", [], "got nothing"),
        ("gpt2", "", "no token"),
        ("gpt2", (TEXT, "good"), "give a dict"),
        ("gpt2", (TEXT, "good", "x"), "tuple of 3"),
        ("gpt2", 5, "expected a str"),
        ("gpt2", "The cat. " * 60, "tokens, and the model takes 66"),
        ("classifier", ("The cat. " * 60, "LABEL_0"), "longer than the model reads"),
        ("bert", "[MASK]", "no token to hide"),
        ("vit", "no-such-file.png", "reads images"),
    ],
)
def test_data_that_cannot_be_used(kind, data, message):
    with pytest.raises(InputError, match=message):
        examples(loaded(kind), data)


def test_an_unknown_label_is_named():
    with pytest.raises(DataError, match=r"'nice'.*LABEL_0, LABEL_1"):
        examples(loaded("classifier"), (TEXT, "nice"))


def test_a_row_alone_does_not_judge_its_padding(tmp_path):
    model = mt.load(reader(tmp_path / "electra", "electra", "ElectraForPreTraining"))
    batch = model.tokenizer([TEXT, OTHER])
    batch["labels"] = (batch["input_ids"] > 50).long()
    with torch.no_grad():
        rows = rows_of(model.transformer, model(**batch), batch, 2)
        alone = model(**{name: x[1:] for name, x in batch.items()})
    assert rows[1].loss.item() == pytest.approx(alone.loss.item(), rel=1e-5)
