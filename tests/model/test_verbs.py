"""The verbs of a loaded model for looking inside: each is the function of its name, on what the model reads."""

import functools
import tempfile
from pathlib import Path

import oracle
import pytest
import torch
from small_models import noisy, t5
from small_readers import reader
from torch.testing import assert_close

import minitransformer as mt
from minitransformer.model import capture, memory
from minitransformer.model.weights import FactoredMatrix

TEXT = "the film was good"
READ = {"gpt2": {}, "bert": {"pair": "it was the cat"}, "t5": {"target": "a good film"}, "albert": {}}
HEADS = {"gpt2": "GPT2LMHeadModel", "bert": "BertForMaskedLM", "t5": "T5ForConditionalGeneration"}
LAST = {"gpt2": "blocks.1", "bert": "blocks.1", "t5": "decoder.1"}
KINDS = pytest.mark.parametrize("kind", HEADS)


@functools.cache
def loaded(kind):
    return mt.load(reader(Path(tempfile.mkdtemp(dir=oracle._HOME.name)), kind, HEADS.get(kind)))


def batch_of(kind):
    return loaded(kind).read(TEXT, **READ[kind]).batch


def seen_by_hand(kind, names="*"):
    with capture(loaded(kind).transformer, names) as seen:
        return loaded(kind).transformer(**batch_of(kind)), seen


def without_head(kind, layer, head, attention="self_attn"):
    """The logits of a model whose output projection reads zeros from one head."""
    model = mt.load(loaded(kind).report.source)
    attn = getattr((model.transformer.decoder or model.transformer.encoder).blocks[layer], attention)
    with torch.no_grad():
        attn.o.weight[:, head * attn.d_head : (head + 1) * attn.d_head] = 0
        return model(**batch_of(kind)).logits


@KINDS
def test_a_pass_with_its_points(kind):
    model, name = loaded(kind), f"{LAST[kind]}.attn.hook_pattern"
    expected, seen = seen_by_hand(kind)
    output, cache = model.run_with_cache(TEXT, **READ[kind])
    assert set(cache) == {each for each in seen if not each.endswith("hook_result")}
    assert not output.logits.requires_grad
    for names in (name, [name], lambda each: each == name):
        output, cache = model.run_with_cache(TEXT, **READ[kind], names=names, grad=True)
        assert list(cache) == [name]
        assert_close((output.logits, cache[name]), (expected.logits, seen[name]))
        assert torch.autograd.grad(output.logits.square().sum(), cache[name])[0].any()
    assert_close(model.run_with_cache(batch_of(kind), names=name)[1][name], cache[name].detach())


@KINDS
def test_every_point_is_told_and_its_memory_is_known(kind):
    model, batch = loaded(kind), batch_of(kind)
    seen = seen_by_hand(kind)[1]
    assert {point.name: len(point.shape.split()) for point in model.hook_points()} == {
        n: x.ndim for n, x in seen.items()
    }
    assert model.capture_bytes(batch, names="*hook_pattern") == sum(x.nbytes for n, x in seen.items() if "pattern" in n)
    assert model.capture_bytes(batch) == sum(x.nbytes for n, x in seen.items() if "result" not in n)


@KINDS
def test_hooks_forward_and_backward(kind):
    model, slopes, name = loaded(kind), [], f"{LAST[kind]}.attn.hook_z"
    forward = [(name, lambda x, hook: x.index_fill(2, torch.tensor(1), 0))]
    backward = [(name, lambda x, hook: slopes.append(x))]
    outputs = [model.run_with_hooks(TEXT, **READ[kind], fwd_hooks=forward, bwd_hooks=backward)]
    with model.hooks(forward, backward):
        outputs.append(model(**batch_of(kind)))
    expected = without_head(kind, 1, 1)
    for output in outputs:
        assert_close(output.logits, expected)
        torch.autograd.grad(output.logits.square().sum(), list(model.parameters()), allow_unused=True)
    assert_close(*slopes)
    assert slopes[0].any()
    assert (model(**batch_of(kind)).logits - expected).abs().max() > 1e-4


@pytest.mark.parametrize(("kind", "attention"), [("gpt2", None), ("t5", "cross"), ("t5", "decoder")])
def test_muted_heads(kind, attention):
    model, batch, part = loaded(kind), batch_of(kind), "cross_attn" if attention == "cross" else "attn"
    with model.muted([(1, 2)], attention=attention):
        assert_close(model(**batch).logits, without_head(kind, 1, 2, part if attention == "cross" else "self_attn"))
    with model.muted([(1, 2)], "uniform", attention=attention):
        pattern = seen_by_hand(kind, f"{LAST[kind]}.{part}.hook_pattern")[1].popitem()[1][0].detach()  # [H T S]
    allowed = torch.ones_like(pattern[2]) if attention == "cross" else torch.ones_like(pattern[2]).tril()
    assert_close(pattern[2], allowed / allowed.sum(-1, keepdim=True))
    assert not torch.allclose(pattern[1], pattern[2])


@pytest.mark.parametrize("attention", ["encoder", "decoder", "cross"])
def test_weights_are_those_of_the_attention_that_was_named(attention):
    model = loaded("t5")
    block = (model.transformer.encoder if attention == "encoder" else model.transformer.decoder).layers[1]
    attn = block.cross_attn if attention == "cross" else block.self_attn
    found, of_head = model.weights(attention), slice(2 * attn.d_head, 3 * attn.d_head)
    for name in "qkv":
        assert torch.equal(getattr(found, f"W_{name.upper()}")[1, 2], getattr(attn, name).weight[of_head].T)
    assert torch.equal(found.W_O[1, 2], attn.o.weight[:, of_head].T)


def test_eigenvalues_are_the_products_largest():
    weights = noisy(t5()).decoder.layers[0].self_attn.q.weight.detach()  # [15 12]
    product = FactoredMatrix(weights.T[:, :5], weights[5:10])
    every = torch.linalg.eigvals(product.AB).tolist()
    largest = sorted(every, key=abs)[-5:]
    key = lambda z: (round(z.real, 9), round(z.imag, 9))
    assert sorted(product.eigenvalues.tolist(), key=key) == pytest.approx(sorted(largest, key=key))
    assert max(abs(z.imag) for z in largest) > 1e-3


def test_the_memory_that_is_free_is_what_linux_says_is_available(monkeypatch, tmp_path):
    told, cpu = tmp_path / "meminfo", torch.device("cpu")
    monkeypatch.setattr(memory, "Path", {"/proc/meminfo": told}.__getitem__)
    assert memory.free_memory(cpu) is None
    told.write_text("MemTotal:  4096 kB\nMemFree:  512 kB\n")
    assert memory.free_memory(cpu) is None
    told.write_text("MemTotal:  4096 kB\nMemFree:  512 kB\nMemAvailable:  2048 kB\nSwapFree:  1 kB\n")
    assert memory.free_memory(cpu) == 2048 * 1024


def test_layers_that_are_shared_are_seen_in_every_pass():
    """ALBERT's one block computes three times."""
    model, told, names = loaded("albert"), [], [f"blocks.{layer}.attn.hook_z" for layer in range(3)]
    caches = [model.run_with_cache(TEXT)[1] for _ in range(2)]
    with torch.no_grad(), model.hooks([("*.hook_z", lambda x, hook: told.append((hook.name, x)))]):
        for _ in range(2):
            model(**batch_of("albert"))
    assert [name for name, _ in told] == names * 2
    for cache, seen in zip(caches, (dict(told[:3]), dict(told[3:])), strict=True):
        assert all(torch.equal(cache[name], x) for name, x in caches[0].items())
        assert_close({name: cache[name] for name in names}, seen)
    assert len({x.sum().item() for x in seen.values()}) == 3
