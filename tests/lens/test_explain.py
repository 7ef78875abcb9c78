"""One head step by step: every number is the model's own, and follows from those before it."""

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from lens_models import KINDS, PAIR, TARGET, TEXT, folder, fresh, image, loaded

import minitransformer
from minitransformer import lens
from minitransformer.errors import InputError
from minitransformer.lens import steps as steps_module
from minitransformer.lens.explain import query_place
from minitransformer.lens.steps import CODE

SOURCE = Path(minitransformer.__file__).parent
PLACES = {
    "bert": [None],
    "roberta": [None],
    "albert": [None],
    "gpt2": [None],
    "llama": [None],
    "t5": ["encoder", "decoder", "cross"],
    "bart": ["encoder", "decoder", "cross"],
}
EVERY = [(kind, attention) for kind, of_kind in PLACES.items() for attention in of_kind]
FIELDS = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "cross": "cross_attentions"}


def explained(kind, attention=None, layer=1, head=1, query=2):
    target = TARGET if kind in ("t5", "bart") else None
    return lens.explain(loaded(kind), TEXT, layer, head, query, target=target, attention=attention)


def theirs(kind, batch, attention):
    """transformers' weights of layer 1, head 1, for query 2."""
    model = getattr(transformers, KINDS[kind][1]).from_pretrained(folder(kind), attn_implementation="eager").eval()
    with torch.no_grad():
        output = model(**batch, output_attentions=True)
    return getattr(output, FIELDS.get(attention, "attentions"))[1][0, 1, 2]


@pytest.mark.parametrize(("kind", "attention"), EVERY)
def test_every_step_follows_from_the_one_before(kind, attention):
    found = explained(kind, attention)
    assert found.max_error < 1e-6
    steps = {step.symbol: step.value.double() for step in found.steps}
    for step in found.steps:
        if step.product is not None:  # what the page shows as each cell's own sum
            again = step.product.left_value.double() @ step.product.right_value.double() * step.product.factor
            again = again if step.product.plus is None else again + step.product.plus
            torch.testing.assert_close(step.value.double(), again, rtol=1e-5, atol=1e-5)
        rows, columns = step.value.shape
        assert len(step.row_labels) == rows
        assert len(step.column_labels) in (0, columns)
        assert step.shape.endswith(f"[{rows} {columns}]")
    torch.testing.assert_close(steps["masked"].softmax(-1), steps["weights"])
    torch.testing.assert_close(steps["weights"] @ steps["v"], steps["z"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "attention"), EVERY)
def test_the_weights_are_those_of_transformers(kind, attention):
    found = explained(kind, attention)
    batch = loaded(kind).read(TEXT, target=TARGET if kind in ("t5", "bart") else None).batch
    torch.testing.assert_close(found.weights, theirs(kind, dict(batch), attention), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "attention"), EVERY)
def test_the_heads_results_add_up_to_what_the_attention_gives(kind, attention):
    model = loaded(kind)
    heads = model.weights(attention).W_Q.shape[1]
    total = sum(explained(kind, attention, head=head).steps[-1].value for head in range(heads))
    target = TARGET if kind in ("t5", "bart") else None
    name = {"encoder": "encoder.1.hook_attn_out", "decoder": "decoder.1.hook_attn_out", None: "blocks.1.hook_attn_out"}
    name = name.get(attention, "decoder.1.hook_cross_attn_out")
    _, cache = model.run_with_cache(TEXT, target=target, names=name)
    expected = cache[name][0, 2] - model.weights(attention).b_O[1]
    torch.testing.assert_close(total[0], expected, rtol=1e-5, atol=1e-5)


def test_images_and_pairs():
    found = lens.explain(loaded("vit"), image(), 0, 0, "0,1")
    assert found.key_tokens[0] == "[CLS]"
    assert found.max_error < 1e-6
    found = lens.explain(loaded("bert"), TEXT, 0, 0, 0, pair=PAIR)
    assert len(found.key_tokens) == len(loaded("bert").read(TEXT, PAIR).tokens)


def test_the_code_that_is_shown_is_the_code_that_runs():
    lines = {
        line.split("  #")[0].strip()
        for file in SOURCE.glob("*/*.py")
        if file.parent.name != "lens"
        for line in file.read_text().splitlines()
    }
    for symbol, line in CODE.items():
        assert line in lines, symbol


def test_a_step_that_does_not_follow_is_found(monkeypatch):
    """Were a formula here another than the model's, the largest difference would say so."""
    hand = steps_module.BOOKS["by_hand"]
    wrong = {**steps_module.BOOKS, "by_hand": type(hand)(**{**vars(hand), "softmax": lambda x: x.softmax(-1) ** 2})}
    monkeypatch.setattr(steps_module, "BOOKS", wrong)
    assert explained("bert").max_error > 1e-3


def test_the_result():
    found = explained("gpt2", query=3)
    tokens = found.key_tokens
    assert [row[1] for row in found.table().rows] == list(tokens)
    assert found.weights[4:].eq(0).all()
    assert found.scores[4:].isneginf().all()
    text = str(found)
    assert "scores = q @ k.transpose(-2, -1) * scale" in text
    assert re.search(r"at most \d\.\de-\d\d apart", text)
    data = json.loads(json.dumps(found.to_dict()))
    assert [step["symbol"] for step in data["steps"]] == [step.symbol for step in found.steps]
    assert data["rows"][0]["weight"] == pytest.approx(found.weights[0].item())
    assert found.tabs()[0].steps is found.steps


def test_the_query_may_be_a_token():
    words = loaded("bert").read(TEXT).tokens
    word = next(word for word in words if words.count(word) == 1)
    assert lens.explain(loaded("bert"), TEXT, 0, 0, word).query == words.index(word)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((9, 0, 0), r"layer: got 9, expected 0 to \d"),
        ((0, 99, 0), r"head: got 99, expected 0 to \d"),
        ((0, 0, 99), "query: got 99, expected 0 to"),
        ((0, 0, "zebra"), "query: 'zebra' is not in"),
        ((0, 0, "film"), "query: 'film' is at the places"),
    ],
)
def test_what_does_not_exist(arguments, message):
    with pytest.raises(InputError, match=message):
        lens.explain(loaded("bert"), "film film good", *arguments)


def test_attention_that_does_not_exist():
    with pytest.raises(InputError, match="attention: got 'cross', expected encoder"):
        lens.explain(loaded("bert"), TEXT, 0, 0, 0, attention="cross")
    with pytest.raises(InputError, match="say which: encoder, decoder, cross"):
        lens.explain(loaded("t5"), TEXT, 0, 0, 0, target=TARGET)


def test_a_model_in_training_is_explained_without_dropout():
    model, other = fresh("gpt2"), loaded("gpt2")
    for part in model.transformer.modules():
        if hasattr(part, "dropout"):
            part.dropout = 0.4
    found = lens.explain(model.train(), TEXT, 1, 1, 2)
    assert found.max_error < 1e-6
    assert torch.equal(found.weights, lens.explain(other, TEXT, 1, 1, 2).weights)
    assert model.transformer.training


def test_what_is_masked_is_json_too(tmp_path):
    found = lens.explain(loaded("gpt2"), TEXT, 0, 0, 1)
    assert found.scores.isinf().any()
    steps = json.loads(found.save(tmp_path / "x.json").read_text())["steps"]
    masked = next(step["value"] for step in steps if step["symbol"] == "masked")
    assert masked[0][2:] == [None] * (len(found.key_tokens) - 2)


@pytest.mark.parametrize(("query", "place"), [("3", 3), (-2, 3), ("-2", 3), ("7", 2)])
def test_a_token_that_is_a_number_comes_before_a_place(query, place):
    assert query_place(query, ("[CLS]", "in", "7", "days", "[SEP]")) == place


@pytest.mark.parametrize("query", ["--3", "9", 9, True, 1.0, None])
def test_what_is_no_query(query):
    with pytest.raises(InputError, match="query: "):
        query_place(query, ("[CLS]", "in", "7", "days", "[SEP]"))
