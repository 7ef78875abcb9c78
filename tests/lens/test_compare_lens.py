"""Two models side by side: each number against scipy, numpy and transformers' attentions; equals are exact zeros."""

import functools

import numpy as np
import pytest
import torch
import transformers
from lens_models import KINDS, PAIR, TARGET, TEXT, folder, fresh, image, loaded
from scipy.spatial.distance import cosine, jensenshannon
from small_readers import pieces, reader, wordpiece

import minitransformer as mt
from minitransformer import lens
from minitransformer.errors import InputError
from minitransformer.lens.differences import cka_distance, cosine_distance, jensen_shannon
from minitransformer.modules.adapters import LoRALinear

OTHER = "A cat was in it."


@functools.cache
def changed(kind, seed=1):
    """The folder of the same model with noise on its weights, as transformers saves it."""
    torch.manual_seed(seed)
    model = getattr(transformers, KINDS[kind][1]).from_pretrained(folder(kind))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    copy = folder(kind).parent / f"{folder(kind).name}-changed-{seed}"
    copy.mkdir()
    for file in folder(kind).iterdir():
        if file.suffix != ".safetensors":
            (copy / file.name).write_bytes(file.read_bytes())
    model.save_pretrained(copy)
    return copy


def data(kind):
    return image() if kind in ("vit", "deit") else [TEXT, OTHER]


def options(kind):
    return {"target": TARGET} if kind == "t5-base" else {}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_models_differ_by_nothing(kind):
    found = lens.compare(loaded(kind), fresh(kind), data(kind), **options(kind))
    for values in (*found.divergence.values(), *found.cosine.values(), *found.cka.values()):
        assert torch.equal(values, torch.zeros_like(values))
        assert values.numel() > 1
    assert {each.change for each in found.weights} == {0.0}
    assert set(found.outputs.values()) == {0.0}
    assert "last_hidden_state" in found.outputs


def theirs(path, kind, text):
    model = getattr(transformers, KINDS[kind][1]).from_pretrained(path, attn_implementation="eager").eval()
    tokenizer = loaded(kind).tokenizer
    with torch.no_grad():
        return model(**tokenizer(text), output_attentions=True, output_hidden_states=True)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_numbers_on_transformers_outputs(kind):
    found = lens.compare(loaded(kind), mt.load(changed(kind)), [TEXT, OTHER])
    sides = [[theirs(path, kind, text) for text in (TEXT, OTHER)] for path in (folder(kind), changed(kind))]
    layers, heads = found.divergence["attention"].shape
    for layer in range(layers):
        for head in range(heads):
            pairs = [(a.attentions[layer][0, head], b.attentions[layer][0, head]) for a, b in zip(*sides, strict=True)]
            bits = [jensenshannon(p, q, base=2) ** 2 for a, b in pairs for p, q in zip(a, b, strict=True)]
            assert found.divergence["attention"][layer, head].item() == pytest.approx(np.mean(bits), abs=1e-6)
    for stage, values in enumerate(zip(*(side[0].hidden_states for side in sides), strict=True)):
        x, y = ([out.hidden_states[stage][0].double().numpy() for out in side] for side in sides)
        x, y = np.concatenate(x), np.concatenate(y)
        expected = np.mean([cosine(a, b) for a, b in zip(x, y, strict=True)])
        assert found.cosine["hidden states"][stage].item() == pytest.approx(expected, abs=1e-6)
        assert found.cka["hidden states"][stage].item() == pytest.approx(1 - kernel_cka(x, y), abs=1e-5)
        assert len(values) == 2
    largest = max(float((a.logits - b.logits).abs().max()) for a, b in zip(*sides, strict=True))
    turned = lens.compare(loaded(kind), mt.load(changed(kind)), [OTHER, TEXT])
    assert found.outputs["logits"] == turned.outputs["logits"] == pytest.approx(largest, abs=1e-5)
    assert found.divergence["attention"].min() > 1e-4
    assert found.divergence["attention"].max() < 1


def kernel_cka(x, y):
    """CKA by kernels, Kornblith et al. 2019, eq. 3, of HSIC between Gram matrices [N N]: the other way round."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n
    k, kk = (centre @ (v @ v.T) @ centre for v in (x, y))
    return (k * kk).sum() / np.sqrt((k * k).sum() * (kk * kk).sum())


def test_distances():
    torch.manual_seed(0)
    p, q = torch.rand(2, 50, 7, dtype=torch.float64).pow(4).unbind()
    p[:, 3] = 0
    q[:10, :5] = 0
    p, q = (x / x.sum(-1, keepdim=True) for x in (p, q))
    expected = [jensenshannon(a, b, base=2) ** 2 for a, b in zip(p.numpy(), q.numpy(), strict=True)]
    np.testing.assert_allclose(jensen_shannon(p, q).numpy(), expected, atol=1e-12)
    apart = torch.tensor([[1.0, 0], [0, 0]]), torch.tensor([[0, 1.0], [0, 0]])
    assert jensen_shannon(*apart).tolist() == [1, 0]
    x, y = torch.randn(2, 40, 6, dtype=torch.float64).unbind()
    np.testing.assert_allclose(cosine_distance(x, y).numpy(), [cosine(a, b) for a, b in zip(x, y, strict=True)])
    turned = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    assert cka_distance(x, 3 * x @ turned + 5) == pytest.approx(0, abs=1e-12)
    assert cka_distance(x, y) == pytest.approx(1 - kernel_cka(x.numpy(), y.numpy()))
    assert cka_distance(x, x) == 0
    assert [cka_distance(torch.ones(4, 2), v) for v in (torch.ones(4, 2), torch.eye(4))] == [0, 1]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "bart", "albert", "vit"])
def test_changes_of_weights(kind):
    a, b = loaded(kind), mt.load(changed(kind))
    found = {each.name: each for each in lens.compare(a, b, data(kind)).weights}
    ours, other = a.transformer.state_dict(), b.transformer.state_dict()
    expected = {
        name.removesuffix(".weight"): np.linalg.norm((x - other[name]).numpy()) / np.linalg.norm(x.numpy())
        for name, x in ours.items()
        if x.ndim > 1 and (name in dict(a.named_parameters()))
    }
    assert found.keys() == expected.keys()
    for name, change in expected.items():
        assert found[name].change == pytest.approx(change, rel=1e-4), name
    some = (
        found["decoder.layers.1.self_attn.q" if kind == "gpt2" else "encoder.layers.1.self_attn.q"]
        if (kind != "albert")
        else found["encoder.layers.0.self_attn.q"]
    )
    assert (some.layer, some.part) == (0 if kind == "albert" else 1, "self_attn.q")


def test_lora_counts():
    a, b = loaded("bert"), fresh("bert")
    attention = b.transformer.encoder.layers[1].self_attn
    attention.v = LoRALinear(attention.v, rank=2, alpha=4)
    torch.nn.init.normal_(attention.v.lora_b)
    change = 2 * attention.v.lora_b @ attention.v.lora_a
    expected = (change.norm() / attention.v.weight.norm()).item()
    found = {each.name: each.change for each in lens.compare(a, b, TEXT).weights}
    assert found.pop("encoder.layers.1.self_attn.v") == pytest.approx(expected, rel=1e-5)
    assert set(found.values()) == {0.0}


def test_heads_may_differ():
    a, b = loaded("bert"), mt.load(folder("bert"), head="sequence-classification")
    found = lens.compare(a, b, TEXT)
    assert set(found.outputs) == {"last_hidden_state"}
    assert found.outputs["last_hidden_state"] == 0
    assert {each.change for each in found.weights if each.stack or each.name.startswith("embed")} == {0.0}
    assert {each.change for each in found.weights if each.name.startswith(("head", "pooler"))} == {None}
    assert found.changes().rows[-1][1] is None
    assert found.to_dict()["largest difference of last_hidden_state"] == 0


@pytest.mark.parametrize("kind", ["t5", "bart", "bart-classifier"])
def test_models_of_two_stacks(kind):
    a, b = loaded(kind), mt.load(changed(kind))
    found = lens.compare(a, b, TEXT)
    assert list(found.divergence) == ["encoder", "decoder", "cross"]
    assert set(found.cosine) == {"encoder hidden states", "decoder hidden states"}
    reading = a.read(TEXT)
    assert found.groups[0][2].query_tokens == found.groups[1][2].query_tokens == reading.decoder_tokens
    outputs = [model(**reading.batch, output_attentions=True) for model in (a, b)]
    ours = [out.cross_attentions[1][0, 1].detach() for out in outputs]
    bits = [jensenshannon(p, q, base=2) ** 2 for p, q in zip(*ours, strict=True)]
    assert found.divergence["cross"][1, 1].item() == pytest.approx(np.nanmean(bits), abs=1e-6)
    given = lens.compare(a, b, TEXT, target=PAIR) if kind != "bart-classifier" else found
    assert given.outputs["logits"] > 0


def test_a_pair_is_one_reading():
    found = lens.compare(loaded("bert"), mt.load(changed("bert")), TEXT, PAIR)
    assert found.groups[0][0].query_second == loaded("bert").read(TEXT, PAIR).second


def test_models_are_as_before():
    a, b = fresh("gpt2").train(), fresh("gpt2")
    training = []
    handle = a.transformer.register_forward_hook(lambda module, *_: training.append(module.training))
    lens.compare(a, b, TEXT)
    handle.remove()
    assert training == [False]
    assert all(module.training for module in a.transformer.modules())
    assert not any(module.training for module in b.transformer.modules())
    assert not any(m._forward_hooks for model in (a, b) for m in model.transformer.modules())


def other_vocabulary(folder):
    wordpiece(folder)
    lines = (folder / "vocab.txt").read_text().split("\n")
    place = lines.index("the")
    lines[place], lines[place + 1] = lines[place + 1], lines[place]
    (folder / "vocab.txt").write_text("\n".join(lines))


def test_what_differs_is_named(tmp_path):
    bert = loaded("bert")
    deeper = mt.load(reader(tmp_path / "deeper", "bert", "BertForMaskedLM", num_hidden_layers=3))
    with pytest.raises(InputError, match=r"different shapes \(encoder\.layers: 2 and 3\)"):
        lens.compare(bert, deeper, TEXT)
    with pytest.raises(InputError, match=r"encoder: 'StackConfig' and 'NoneType'"):
        lens.compare(bert, loaded("gpt2"), TEXT)
    swapped = mt.load(reader(tmp_path / "swapped", "bert", "BertForMaskedLM", vocabulary=other_vocabulary))
    number = bert.tokenizer.backend.token_to_id("the")
    with pytest.raises(
        InputError, match=rf"input_ids \(token 1 is 'the' \(id {number}\) and 'the' \(id {number + 1}\)\)"
    ):
        lens.compare(bert, swapped, "The cat")
    shorter = mt.load(
        reader(
            tmp_path / "t5",
            "t5",
            "T5ForConditionalGeneration",
            vocabulary=pieces("spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, vocab_size=280),
        )
    )
    with pytest.raises(InputError, match="different input_ids"):
        lens.compare(loaded("t5"), shorter, TEXT)


@pytest.mark.parametrize(
    ("texts", "message"), [([], "got none"), ("", "no token"), ([TEXT, ""], "no token"), ("The cat. " * 60, "takes 66")]
)
def test_texts_that_cannot_be_read(texts, message):
    with pytest.raises(InputError, match=message):
        lens.compare(loaded("gpt2"), loaded("gpt2"), texts)


def test_the_result(tmp_path):
    a, b = loaded("bart"), mt.load(changed("bart"))
    found = lens.compare(a, b, TEXT)
    assert found.names == (folder("bart").name, changed("bart").name)
    assert lens.compare(a, a, TEXT).names == tuple(f"{folder('bart').name} ({side})" for side in "AB")
    values = [row[3] for row in found.table().rows]
    assert values == sorted(values, reverse=True)
    assert len(values) == sum(x.numel() for x in found.divergence.values())
    changes = [row[1] for row in found.changes().rows]
    assert changes == sorted(changes, reverse=True)
    kinds = [type(tab).__name__ for tab in found.tabs()]
    assert kinds == ["CompareTab", "GridTab", "GridTab", "GridTab", "GridTab", "TableTab", "TableTab"]
    grid = next(tab for tab in found.tabs() if getattr(tab, "name", "") == "decoder weights")
    change = {each.name: each.change for each in found.weights}["decoder.layers.1.cross_attn.v"]
    assert grid.values[1, grid.column_labels.index("cross_attn.v")].item() == pytest.approx(change)
    for suffix in ("svg", "json", "csv", "html", "txt"):
        assert found.save(tmp_path / f"a.{suffix}").stat().st_size > 100
    assert "cross 1" in (tmp_path / "a.svg").read_text()
