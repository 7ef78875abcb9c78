"""Importance by gradient: against finite differences of transformers' model, whose heads are turned down by hand."""

import pytest
import torch
import transformers
from lens_models import KINDS, PAIR, TEXT, folder, fresh, image, loaded

from minitransformer import lens
from minitransformer.errors import InputError
from minitransformer.model.points import kinds_of_attention

OTHER = "A cat was in it."
STEP = 1e-4


@torch.no_grad()
def slope(model, layer, head, ids):
    """How fast the loss of transformers' GPT-2 changes with what a head gives, by two points beside 1."""
    width = model.config.n_embd // model.config.n_head
    weight = model.transformer.h[layer].attn.c_proj.weight
    before, found = weight.clone(), []
    for factor in (1 + STEP, 1 - STEP):
        weight[head * width : (head + 1) * width] *= factor
        logits = model(input_ids=ids).logits[0, :-1]  # in float64; its own loss would be rounded
        found.append(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:])))
        weight.copy_(before)
    return (found[0] - found[1]) / (2 * STEP)


def test_it_is_the_mean_size_of_the_slopes():
    model = loaded("gpt2")
    texts = [model.tokenizer(text)["input_ids"] for text in (TEXT, OTHER)]
    scores = lens.head_importance(model, [TEXT, OTHER])
    other = transformers.GPT2LMHeadModel.from_pretrained(folder("gpt2"), attn_implementation="eager").eval().double()
    slopes = torch.tensor(
        [[[slope(other, layer, head, ids) for ids in texts] for head in range(5)] for layer in range(3)],
        dtype=torch.float64,
    )
    torch.testing.assert_close(scores.scores, slopes.abs().mean(-1), atol=1e-5, rtol=1e-3)
    assert (slopes[..., 0].sign() != slopes[..., 1].sign()).any()  # else the size of the mean were the same
    assert (scores.metric, scores.examples, scores.signed) == ("loss", 2, False)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("deit", "t5-base")])
def test_heads_of_every_model(kind):
    model = fresh(kind)
    model.transformer.double()
    data = image() if kind == "vit" else TEXT
    kinds = kinds_of_attention(model)
    masks = {"encoder": "head_mask", "decoder": "decoder_head_mask", "cross": "cross_attn_head_mask"}
    reading = model.read(data)
    batch = {name: x.double() if x.is_floating_point() else x for name, x in reading.batch.items()}

    def metric(output):
        return output.last_hidden_state.pow(3).mean()

    for name, heads in kinds.items():
        attention = None if len(kinds) == 1 else name
        scores = lens.head_importance(model, batch, metric, attention=attention)
        count = heads.stack.config.heads
        assert scores.scores.shape == (heads.layers, count)
        argument = masks[name] if attention else "head_mask"
        for layer, head in ((0, 0), (heads.layers - 1, count - 1)):
            found = []
            for factor in (1 + STEP, 1 - STEP):
                mask = torch.ones(heads.layers, count, dtype=torch.float64)
                mask[layer, head] = factor
                with torch.no_grad():
                    found.append(float(metric(model(**batch, **{argument: mask}))))
            expected = abs(found[0] - found[1]) / (2 * STEP)
            assert scores.scores[layer, head].item() == pytest.approx(expected, rel=1e-3, abs=1e-7)
        assert scores.scores.max() > 0


def test_labels_decide():
    model = loaded("classifier")
    of_labels = [lens.head_importance(model, (TEXT, label)).scores for label in model.labels]
    assert not torch.allclose(*of_labels[:2], rtol=1e-2)


def is_evaluating(model):
    """A metric that looks whether dropout is off."""

    def metric(output):
        assert not any(module.training for module in model.transformer.modules())
        return output.last_hidden_state.square().mean()

    return metric


def test_the_model_is_as_before():
    model = fresh("gpt2").train()
    lens.head_importance(model, [TEXT, PAIR], is_evaluating(model))
    assert all(module.training for module in model.transformer.modules())
    assert all(x.grad is None and x.requires_grad for x in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.transformer.modules())


def test_it_works_where_no_gradients_are_recorded():
    with torch.no_grad():
        scores = lens.head_importance(loaded("gpt2"), TEXT)
    assert torch.equal(scores.scores, lens.head_importance(loaded("gpt2"), TEXT).scores)


@pytest.mark.parametrize(
    ("kind", "data", "metric", "message"),
    [
        ("deit", image(), None, "no slope"),
        ("gpt2", TEXT, lambda output: output.logits.mean().item(), "carries no gradient"),
        ("gpt2", TEXT, lambda output: output.logits.argmax(-1)[0, 0], "carries no gradient"),
        ("gpt2", TEXT, lambda output: output.logits, "expected a number"),
        ("bart", TEXT, None, "encoder, decoder, cross"),
    ],
)
def test_what_has_no_slope(kind, data, metric, message):
    with pytest.raises(InputError, match=message):
        lens.head_importance(loaded(kind), data, metric)


def test_the_result():
    scores = lens.head_importance(loaded("bert"), TEXT)
    assert str(scores).startswith("Importance of heads: slope of the loss\n")
    assert (scores.scores >= 0).all()
    (tab,) = scores.tabs()
    assert (tab.signed, tab.selects) == (False, "attention")


def test_inference_mode_forbids_gradients():
    for ask in (lens.saliency, lens.head_importance):
        with torch.inference_mode(), pytest.raises(InputError, match="call it outside"):
            ask(loaded("gpt2"), TEXT)
