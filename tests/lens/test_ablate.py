"""Ablation: each score against transformers' model with that head taken out of its weights."""

import copy

import pytest
import torch
import transformers
from lens_models import KINDS, PAIR, TEXT, folder, fresh, image, loaded
from scipy.stats import spearmanr

from minitransformer import lens
from minitransformer.errors import InputError
from minitransformer.model.points import kinds_of_attention

OTHER = "A cat was in it."


def theirs(kind):
    return getattr(transformers, KINDS[kind][1]).from_pretrained(folder(kind), attn_implementation="eager").eval()


@torch.no_grad()
def mean_loss(model, texts):
    """transformers' mean over texts of the mean loss per token."""
    ids = [loaded("gpt2").tokenizer(text)["input_ids"] for text in texts]
    return sum(float(model(input_ids=x, labels=x).loss) for x in ids) / len(ids)


@torch.no_grad()
def without(layer, head, mode, texts):
    """transformers' GPT-2 with one head taken out, or made uniform, in its weights."""
    model = theirs("gpt2")
    attn, d_head = model.transformer.h[layer].attn, model.config.n_embd // model.config.n_head
    rows = slice(head * d_head, (head + 1) * d_head)
    if mode == "uniform":  # no query, no preference
        attn.c_attn.weight[:, rows] = 0
        attn.c_attn.bias[rows] = 0
        return model
    if mode == "mean":
        found = []
        handle = attn.c_proj.register_forward_pre_hook(lambda _, args: found.append(args[0][0]))
        mean_loss(model, texts)
        handle.remove()
        attn.c_proj.bias += torch.cat(found)[:, rows].mean(0) @ attn.c_proj.weight[rows]
    attn.c_proj.weight[rows] = 0
    return model


@pytest.mark.parametrize("mode", ["zero", "mean", "uniform"])
def test_each_head_is_as_if_taken_out_of_the_weights(mode):
    texts = [TEXT, OTHER]
    scores = lens.ablate(loaded("gpt2"), texts, mode=mode)
    before = mean_loss(theirs("gpt2"), texts)
    expected = [[mean_loss(without(i, h, mode, texts), texts) - before for h in range(5)] for i in range(3)]
    torch.testing.assert_close(scores.scores, torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=1e-4)
    assert scores.unchanged == pytest.approx(before, abs=1e-5)
    assert scores.scores.abs().max() > 1e-3
    assert scores.examples == 2


@pytest.mark.parametrize(("unit", "path"), [("attention", "attn.c_proj"), ("mlp", "mlp.c_proj")])
def test_whole_parts_of_a_layer(unit, path):
    expected = []
    for layer in range(3):
        model = theirs("gpt2")
        with torch.no_grad():
            projection = model.transformer.h[layer].get_submodule(path)
            projection.weight.zero_()
            projection.bias.zero_()
        expected.append([mean_loss(model, [TEXT]) - mean_loss(theirs("gpt2"), [TEXT])])
    scores = lens.ablate(loaded("gpt2"), TEXT, unit=unit)
    torch.testing.assert_close(scores.scores, torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=1e-4)


def test_the_mean_is_that_of_real_tokens():
    texts = loaded("gpt2").tokenizer([TEXT, OTHER], padding_side="right")
    assert not texts["attention_mask"].all()
    of_batch, of_texts = (lens.ablate(loaded("gpt2"), data, mode="mean") for data in (texts, [TEXT, OTHER]))
    torch.testing.assert_close(of_batch.scores, of_texts.scores, atol=1e-5, rtol=0)


@torch.no_grad()
def test_heads_of_an_encoder():
    model = loaded("classifier")
    batch = {**model.tokenizer([TEXT, PAIR]), "labels": torch.tensor([0, 1])}
    scores = lens.ablate(model, [(TEXT, model.labels[0]), (PAIR, model.labels[1])])
    before = float(theirs("classifier")(**batch).loss)
    for layer in range(2):
        for head in range(3):
            other = theirs("classifier")
            attention = other.bert.encoder.layer[layer].attention
            width = attention.self.attention_head_size
            attention.output.dense.weight[:, head * width : (head + 1) * width] = 0
            change = float(other(**batch).loss) - before
            assert scores.scores[layer, head].item() == pytest.approx(change, abs=1e-5)
    assert torch.equal(lens.ablate(model, batch).scores.sign(), scores.scores.sign())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["zero", pytest.param("uniform", marks=pytest.mark.slow)])
def test_each_head_of_every_model_is_as_if_muted(kind, mode):
    model = loaded(kind)
    data = image() if kind in ("vit", "deit") else (TEXT, PAIR) if kind == "t5-base" else TEXT
    kinds = kinds_of_attention(model)

    def metric(output):
        return output.last_hidden_state.square().mean()

    reading = model.read(*([TEXT] if kind == "t5-base" else [data]), **({"target": PAIR} if kind == "t5-base" else {}))
    for name, heads in kinds.items():
        attention = None if len(kinds) == 1 else name
        scores = lens.ablate(model, data, mode=mode, metric=metric, attention=attention)
        assert scores.scores.shape == (heads.layers, heads.stack.config.heads)
        assert scores.group == ("attention" if attention is None else name)
        for layer, head in ((0, 0), (heads.layers - 1, heads.stack.config.heads - 1)):
            with torch.no_grad(), model.muted([(layer, head)], mode, attention=attention):
                value = float(metric(model(**reading.batch)))
            assert scores.scores[layer, head].item() == pytest.approx(value - scores.unchanged, abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "deit", "vit"])
def test_default_metrics(kind):
    scores = lens.ablate(loaded(kind), TEXT if kind == "bert" else image(), mode="mean")
    assert scores.metric == ("distance" if kind == "deit" else "loss")
    assert scores.scores.abs().max() > 1e-4
    assert kind != "deit" or (scores.unchanged == 0 and (scores.scores > 0).all())


def only_head(layer, head):
    """A GPT-2 whose other heads say nothing."""
    model = fresh("gpt2")
    with torch.no_grad():
        for i, block in enumerate(model.transformer.decoder.blocks):
            by_head = block.self_attn.o.weight.unflatten(1, (-1, block.self_attn.d_head))  # a view: [D H E]
            kept = by_head[:, head].clone() * 5
            by_head.zero_()
            if i == layer:
                by_head[:, head] = kept
    return model


@pytest.mark.parametrize("place", [(0, 3), (1, 2), (2, 0)])
def test_both_ways_find_the_only_head_that_matters(place):
    model = only_head(*place)
    ways = [lens.ablate(model, TEXT, mode=mode) for mode in ("zero", "mean", "uniform")]
    for scores in [*ways, lens.head_importance(model, TEXT)]:
        assert scores.ranking()[0][:2] == place
        rest = scores.scores.clone()
        assert abs(rest[place]) > 1e-4
        rest[place] = 0
        assert rest.abs().max() < 1e-5
    gradient = lens.head_importance(model, TEXT)
    assert gradient.agreement(ways[0]) > 0


def test_agreement_is_spearmans():
    model = loaded("gpt2")
    one, other = lens.ablate(model, TEXT), lens.head_importance(model, TEXT)
    expected = spearmanr(one.scores.abs().flatten(), other.scores.flatten()).statistic
    assert one.agreement(other) == pytest.approx(expected)
    assert other.agreement(one) == pytest.approx(expected)
    assert one.agreement(one) == pytest.approx(1)
    with pytest.raises(InputError, match="same heads"):
        one.agreement(lens.ablate(model, TEXT, unit="mlp"))
    with pytest.raises(InputError, match="same heads"):
        one.agreement(lens.ablate(loaded("bert"), TEXT))


def is_evaluating(model):
    """A metric that looks whether dropout is off."""

    def metric(output):
        assert not any(module.training for module in model.transformer.modules())
        return output.last_hidden_state.square().mean()

    return metric


def test_the_model_is_as_before():
    model = fresh("gpt2").train()
    before = copy.deepcopy(model.transformer.state_dict())
    for mode in ("zero", "mean", "uniform"):
        lens.ablate(model, TEXT, mode=mode, metric=is_evaluating(model))
    with pytest.raises(ZeroDivisionError):
        lens.ablate(model, TEXT, metric=lambda output: 1 / 0)
    assert all(module.training for module in model.transformer.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.transformer.modules())
    assert all(torch.equal(x, before[name]) for name, x in model.transformer.state_dict().items())
    batch = model.tokenizer(TEXT)
    assert torch.equal(model.eval()(**batch).logits, loaded("gpt2")(**batch).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "nothing"}, "mode: got 'nothing'.*zero, mean"),
        ({"unit": "neuron"}, "unit: got 'neuron', expected one of head, attention, mlp"),
        ({"unit": "mlp", "mode": "uniform"}, "mode: got 'uniform' for unit 'mlp'"),
        ({"attention": "encoder"}, "encoder"),
        ({"metric": lambda output: output.logits[0]}, r"it returned a tensor of shape \[\d+, \d+\]"),
        ({"data": []}, "got nothing"),
    ],
)
def test_what_cannot_be_ablated(options, message):
    with pytest.raises(InputError, match=message):
        lens.ablate(**{"model": loaded("gpt2"), "data": TEXT, **options})


def test_the_result(tmp_path):
    scores = lens.ablate(loaded("gpt2"), TEXT)
    sizes = [abs(score) for _, _, score in scores.ranking()]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 15
    assert all(scores.scores[layer, head] == score for layer, head, score in scores.ranking())
    assert scores.table().rows == scores.ranking()
    assert str(scores).startswith("Heads muted (zero): change of the loss\n")
    (tab,) = scores.tabs()
    assert (tab.selects, tab.signed) == ("attention", True)
    assert scores.to_dict()["unchanged"] == scores.unchanged
    for suffix in ("svg", "json", "csv", "html"):
        assert scores.save(tmp_path / f"a.{suffix}").stat().st_size > 100
    layers = lens.ablate(loaded("gpt2"), TEXT, unit="mlp")
    assert (layers.labels, layers.tabs()[0].selects) == (("mlp",), None)
    assert layers.table().rows[0][1] == "mlp"
    cross = lens.ablate(loaded("bart"), TEXT, attention="cross")
    assert cross.title.endswith("[cross]")
    assert cross.tabs()[0].selects == "cross"


@pytest.mark.parametrize("judge", [lens.ablate, lens.head_importance])
def test_a_text_of_one_token_judges_nothing(judge):
    with pytest.raises(InputError, match="no next token to judge"):
        judge(loaded("gpt2"), "The")


def test_the_mean_leaves_out_what_labels_pad():
    model = loaded("t5")
    batch = dict(model.read(TEXT, target=OTHER).batch)
    labels = torch.cat((batch.pop("decoder_input_ids")[:, 1:], torch.tensor([[1]])), 1)
    padded = torch.nn.functional.pad(labels, (0, 4), value=-100)
    one, other = (
        lens.ablate(model, {**batch, "labels": x}, mode="mean", attention="decoder") for x in (labels, padded)
    )
    torch.testing.assert_close(one.scores, other.scores, atol=1e-6, rtol=1e-5)
