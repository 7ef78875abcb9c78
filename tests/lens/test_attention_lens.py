"""All attention weights of one text: transformers' own numbers, and what is made of them."""

import json
import math

import pytest
import torch
import transformers
from lens_models import PAIR, TARGET, TEXT, folder, fresh, image, loaded

from minitransformer import lens
from minitransformer.errors import InputError
from minitransformer.lens.attention import entropy

ONE_STACK = ["bert", "classifier", "roberta", "albert", "gpt2", "llama", "vit", "deit"]
TWO_STACKS = ["t5", "t5-base", "bart", "bart-classifier"]


def looked_at(kind, **options):
    if kind in ("vit", "deit"):
        return lens.attention(loaded(kind), image(), **options)
    target = TARGET if kind in TWO_STACKS and kind != "bart-classifier" else None
    return lens.attention(loaded(kind), TEXT, target=target, **options)


def theirs(kind):
    config = transformers.AutoConfig.from_pretrained(folder(kind))
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder(kind), attn_implementation="eager")
    reading = loaded(kind).read(
        image() if kind in ("vit", "deit") else TEXT, target=TARGET if kind in TWO_STACKS[:3] else None
    )
    batch = dict(reading.batch)
    with torch.no_grad():
        return model.eval()(**batch, output_attentions=True)


def assert_equal(group, expected):
    expected = torch.cat(expected)
    torch.testing.assert_close(group.weights, expected, atol=1e-6, rtol=0)
    assert expected.std() > 1e-3  # there is something to compare
    assert group.weights.shape[2:] == (len(group.query_tokens), len(group.key_tokens))


@pytest.mark.parametrize("kind", ONE_STACK)
def test_one_stack_has_transformers_weights(kind):
    found = looked_at(kind)
    assert [group.name for group in found.groups] == ["attention"]
    assert_equal(found.groups[0], theirs(kind).attentions)


@pytest.mark.parametrize("kind", TWO_STACKS)
def test_two_stacks_have_transformers_weights(kind):
    found, expected = looked_at(kind), theirs(kind)
    assert [group.name for group in found.groups] == ["encoder", "decoder", "cross"]
    for name in ("encoder", "decoder", "cross"):
        assert_equal(found.group(name), getattr(expected, f"{name}_attentions"))
    assert found.group("cross").query_tokens == found.group("decoder").key_tokens
    assert found.group("cross").key_tokens == found.group("encoder").query_tokens


def test_a_pair_and_a_model_in_training():
    model = fresh("bert").train()
    found = lens.attention(model, TEXT, PAIR)
    assert found.group().query_second == found.group().key_second == found.group().query_tokens.index("[SEP]") + 1
    assert torch.equal(found.group().weights, lens.attention(loaded("bert"), TEXT, PAIR).group().weights)
    assert model.transformer.training
    assert not found.group().weights.requires_grad


def test_a_row_for_each_head():
    found = looked_at("gpt2")
    rows = found.table().rows
    weights = found.group().weights
    assert [row[1:3] for row in rows] == [
        (layer, head) for layer in range(len(weights)) for head in range(weights.shape[1])
    ]
    for _, layer, head, query, key, weight, bits in rows:
        matrix = weights[layer, head].tolist()
        pairs = [(w, q, k) for q, line in enumerate(matrix) for k, w in enumerate(line) if q > 0]
        most, q, k = max(pairs)
        assert (query, key, weight) == (found.group().query_tokens[q], found.group().key_tokens[k], most)
        rows_bits = [-sum(w * math.log2(w) for w in line if w > 0) for line in matrix]
        assert bits == pytest.approx(sum(rows_bits) / len(rows_bits), abs=1e-5)


def test_entropy_in_bits():
    weights = torch.tensor([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [0.0] * 4])
    assert entropy(weights).tolist() == pytest.approx([0, 2, 1, 0])


def test_every_weight(tmp_path):
    found = looked_at("t5")
    rows = found.weights_table().rows
    assert len(rows) == sum(group.weights.numel() for group in found.groups)
    name, layer, head, query, query_token, key, key_token, weight = rows[-1]
    assert (name, layer, head) == ("cross", 1, 3)
    assert weight == found.group("cross").weights[layer, head, query, key].item()
    assert (query_token, key_token) == (found.group("cross").query_tokens[query], found.group("cross").key_tokens[key])
    read = json.loads(found.save(tmp_path / "a.json").read_text())["attention"]["cross"]
    assert torch.equal(torch.tensor(read["weights"]), found.group("cross").weights)
    assert read["query_tokens"] == list(found.group("cross").query_tokens)


def test_some_layers():
    every, found = looked_at("bert"), looked_at("bert", layers=[1])
    assert found.group().layers == (1,)
    assert torch.equal(found.group().weights, every.group().weights[1:])
    assert {row[1] for row in found.table().rows} == {1}
    assert found.tabs()[0].layer == 1
    assert looked_at("t5", layers=[1, 0, 1]).group("decoder").layers == (0, 1)
    with pytest.raises(InputError, match=r"layers \(attention\): got 2, expected 0 to 1"):
        looked_at("bert", layers=[0, 2])
    with pytest.raises(InputError, match=r"layers \(decoder\): got 2"):  # its encoder has three layers
        looked_at("t5", layers=[2])
    assert looked_at("bert", layers=[-1]).group().layers == (1,)
    for layers in ([], [-3], [True], ["0"], 1):
        with pytest.raises(InputError, match="layers"):
            looked_at("bert", layers=layers)


def test_figures(tmp_path):
    found = looked_at("t5")
    for options in ({"layer": 1, "head": 2, "group": "cross"}, {"layer": 2, "group": "encoder"}):
        assert found.figure(**options)
    image_of = found.figure(layer=1, head=2, group="cross").axes[0].images[0].get_array()
    torch.testing.assert_close(torch.tensor(image_of.data), found.group("cross").weights[1, 2])
    assert "head 3" in found.save(tmp_path / "a.svg").read_text()
    with pytest.raises(InputError, match=r"layer: got 2, expected .* 0, 1"):
        found.figure(layer=2, group="cross")
    with pytest.raises(InputError, match=r"head: got 4, expected 0 to 3"):
        found.figure(layer=0, head=4)
    with pytest.raises(InputError, match="group: got 'self', expected one of encoder, decoder, cross"):
        found.figure(group="self")


def test_the_text_shows_tokens_as_text():
    text = str(looked_at("gpt2"))
    assert text.startswith("Attention weights (attention: 3 × 5 heads, 20 queries, 20 keys)")
    hostile = str(lens.attention(loaded("bert"), "a \x1b[2J <script>"))
    assert all(line.isprintable() for line in hostile.split("\n"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # bertviz leaves its files open
@pytest.mark.parametrize("kind", ["bert", "t5", "vit"])
def test_bertvizs_own_views_take_it(kind):
    bertviz = pytest.importorskip("bertviz")
    found = lens.attention(loaded("bert"), TEXT, PAIR) if kind == "bert" else looked_at(kind)
    given = found.to_bertviz()
    assert ("sentence_b_start" in given) == (kind == "bert")
    for view in (bertviz.head_view, bertviz.model_view):
        page = view(**given, html_action="return").data
        for token in found.groups[-1].query_tokens:
            assert json.dumps(token) in page or token.replace("▁", " ") in page


@pytest.mark.parametrize("look", [lens.attention, lens.explain, lens.rollout, lens.head_types])
def test_memory_is_asked_for_first(look, monkeypatch):
    monkeypatch.setattr("minitransformer.model.memory.free_memory", lambda device: 1000)
    with pytest.raises(InputError, match="GiB are free"):
        look(loaded("gpt2"), TEXT, *(0, 0, 0) * (look is lens.explain))
