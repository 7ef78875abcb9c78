"""LoRA and bottleneck adapters: what they compute, what they leave alone, merging, and who honours them."""

import copy

import pytest
import torch
from oracle import Case, checkpoint, make_batch
from safetensors.torch import load_file
from torch import nn

import minitransformer as mt
from minitransformer.checkpoint import save_checkpoint
from minitransformer.errors import ConfigError
from minitransformer.model.adapters import (
    add_adapters,
    add_lora,
    beside,
    lora_layers,
    merge_lora,
    remove_adapters,
    unmerge_lora,
)
from minitransformer.modules.adapters import AdapterLinear, LoRALinear

CASE = Case("bert", "sequence-classification")
WRITER = Case("gpt2", "causal-lm")


def changed(model, std=0.3):
    """The model with values in all that its adapters brought: what begins as zeros hides errors."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for x in beside(model).values():
            x.add_(torch.randn(x.shape, generator=generator, dtype=x.dtype), alpha=std)
    return model


def loaded(case=CASE, **options):
    return mt.load(checkpoint(case), dtype=torch.float64, **options)


def logits(model, case=CASE):
    with torch.no_grad():
        return model(**make_batch(case)).logits


@pytest.mark.parametrize(("rank_stabilised", "scale"), [(False, 6 / 4), (True, 6 / 2)])
def test_lora_is_its_formula(rank_stabilised, scale):
    linear, x = nn.Linear(5, 7).double(), torch.randn(3, 5).double()
    layer = LoRALinear(linear, rank=4, alpha=6, rank_stabilised=rank_stabilised)
    assert torch.equal(layer(x), linear(x))  # B begins as zeros
    nn.init.normal_(layer.lora_b)
    expected = x @ (linear.weight + scale * layer.lora_b @ layer.lora_a).T + linear.bias
    torch.testing.assert_close(layer(x), expected)
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    assert layer.lora_a.abs().max() <= 5**-0.5  # Kaiming's bound with a = sqrt 5, of 5 inputs
    assert layer.lora_a.abs().max() > 0.8 * 5**-0.5


def test_dropout_is_for_training_and_for_the_lora_alone():
    linear, x = nn.Linear(40, 30), torch.randn(6, 40)
    layer = LoRALinear(linear, rank=3, alpha=3, dropout=0.5)
    assert torch.equal(layer.train()(x), linear(x))  # whatever is dropped, B is zeros
    nn.init.normal_(layer.lora_b)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    torch.manual_seed(1)
    dropped = nn.functional.dropout(x, 0.5)
    torch.manual_seed(1)
    torch.testing.assert_close(layer.train()(x), linear(x) + dropped @ (layer.lora_b @ layer.lora_a).T)


@pytest.mark.parametrize(("activation", "function"), [("gelu", nn.GELU()), ("relu", nn.ReLU())])
def test_bottleneck_is_its_formula(activation, function):
    linear, x = nn.Linear(5, 7).double(), torch.randn(3, 5).double()
    layer = AdapterLinear(linear, size=4, activation=activation)
    assert torch.equal(layer(x), linear(x))
    for weight in layer.parameters():
        nn.init.normal_(weight)
    y = linear(x)
    expected = y + layer.adapter_up(function(layer.adapter_down(y)))
    torch.testing.assert_close(layer(x), expected)
    assert layer.weight is linear.weight


@pytest.mark.parametrize("add", [add_lora, add_adapters])
def test_a_model_begins_as_it_was_and_keeps_its_names(add):
    model = loaded()
    before, names = logits(model), set(model.transformer.state_dict())
    add(model.transformer)
    new = set(model.transformer.state_dict()) - names
    assert torch.equal(logits(model), before)
    assert names < set(model.transformer.state_dict())
    assert new == beside(model.transformer).keys()
    assert new
    changed(model.transformer)
    assert not torch.allclose(logits(model), before, atol=1e-2)
    remove_adapters(model.transformer)
    assert torch.equal(logits(model), before)
    assert {type(module) for module in model.transformer.modules()} == {
        type(module) for module in loaded().transformer.modules()
    }


def test_targets_are_the_last_parts_of_names_in_all_attentions():
    model = mt.load(checkpoint(Case("bart", "seq2seq-lm"))).transformer
    add_lora(model, targets=["v"])
    found = {name for name, _ in lora_layers(model)}
    encoder, decoder = len(model.encoder.layers), len(model.decoder.layers)
    assert len(found) == encoder + 2 * decoder
    assert all(name.endswith("_attn.v") for name in found)


def test_shared_layers_have_one_lora():
    model = mt.load(checkpoint(Case("albert", "base"))).transformer
    assert len(model.encoder.blocks) == 3
    add_lora(model, rank=2, targets=("q", "v"))
    assert len(list(lora_layers(model))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("q", "query")}, "targets: got query, expected q, k, v, o, up, down"),
        ({"targets": ()}, "targets: got none, expected q"),
        ({"rank": 0}, "rank: got 0"),
        ({"alpha": 0}, "alpha: got 0"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
    ],
)
def test_what_add_lora_refuses(options, message):
    model = loaded().transformer
    with pytest.raises(ConfigError, match=message):
        add_lora(model, **options)
    assert not beside(model)


def test_one_adapter_at_a_time():
    model = loaded().transformer
    add_lora(model, targets=("o",))
    with pytest.raises(ConfigError, match="has an adapter already; remove_adapters"):
        add_adapters(model)
    with pytest.raises(ConfigError, match="has an adapter already"):
        add_lora(model, targets=("q", "o"))
    assert all(name.endswith(".o") for name, _ in lora_layers(model))


def test_merge_gives_the_same_and_unmerge_the_same_bits():
    model = loaded()
    original = {name: x.clone() for name, x in model.transformer.state_dict().items()}
    add_lora(model.transformer, rank=3, alpha=5, targets=("q", "v", "o", "down"))
    before = logits(changed(model.transformer) and model)
    merge_lora(model.transformer)
    merge_lora(model.transformer)  # a second time changes nothing
    torch.testing.assert_close(logits(model), before, atol=1e-9, rtol=1e-9)
    state = model.transformer.state_dict()
    moved = {name for name, x in original.items() if not torch.equal(x, state[name])}
    assert moved == {f"{name}.weight" for name, _ in lora_layers(model.transformer)}
    unmerge_lora(model.transformer)
    state = model.transformer.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in original.items())
    assert torch.equal(logits(model), before)
    merge_lora(model.transformer)
    remove_adapters(model.transformer)
    torch.testing.assert_close(logits(model), before, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerged_bits_of_low_precision(dtype):
    linear = nn.Linear(64, 64).to(dtype)
    weight = linear.weight.detach().clone()
    layer = LoRALinear(linear, rank=4, alpha=8)
    nn.init.normal_(layer.lora_b)
    exact = weight.double() + 2 * layer.lora_b.double() @ layer.lora_a.double()
    layer.merge()
    assert torch.equal(layer.weight, exact.to(dtype))  # rounded once, at the end
    layer.unmerge()
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("add", [add_lora, add_adapters])
def test_gradients_reach_the_new_weights(add):
    model = loaded().transformer
    add(model)
    changed(model)
    for name, x in model.named_parameters():
        x.requires_grad_(name in beside(model))
    model(**make_batch(CASE)).logits.sum().backward()
    with_gradient = {name for name, x in model.named_parameters() if x.grad is not None and x.grad.any()}
    assert with_gradient == beside(model).keys()


@pytest.mark.parametrize("add", [add_lora, add_adapters])
def test_generation_honours_them(add):
    model = mt.load(checkpoint(WRITER))
    prompt = torch.tensor([[5, 9, 3, 7]])
    plain = model.generate(prompt, max_new_tokens=8)
    add(model.transformer)
    assert torch.equal(model.generate(prompt, max_new_tokens=8), plain)
    changed(model.transformer, std=1.0)
    written = model.generate(prompt, max_new_tokens=8)
    expected = prompt
    for _ in range(written.shape[1] - prompt.shape[1]):  # by the model itself, which keeps nothing from step to step
        following = model(input_ids=expected).logits[:, -1].argmax(-1, keepdim=True)
        expected = torch.cat((expected, following), dim=1)
    assert torch.equal(written, expected)
    assert not torch.equal(written, plain)


def test_capture_reads_what_an_adapted_layer_gives():
    model = loaded().transformer
    add_adapters(model)
    changed(model)
    with mt.capture(model, ["blocks.0.mlp.hook_post", "blocks.0.hook_mlp_out"]) as seen:
        model(**make_batch(CASE))
    down = model.encoder.layers[0].ffn.down
    assert isinstance(down, AdapterLinear)
    torch.testing.assert_close(seen["blocks.0.hook_mlp_out"], down(seen["blocks.0.mlp.hook_post"]))


@pytest.mark.parametrize("case", [CASE, WRITER, Case("t5", "seq2seq-lm"), Case("vit", "image-classification")], ids=str)
def test_a_saved_model_has_its_lora_in_the_weights(case, tmp_path):
    model = mt.load(checkpoint(case))
    add_lora(model.transformer, rank=2, targets=("q", "v", "down"))
    changed(model.transformer)
    live = {name: x.clone() for name, x in model.transformer.state_dict().items()}
    model.save(tmp_path / "unmerged")
    assert all(torch.equal(x, live[name]) for name, x in model.transformer.state_dict().items())
    twin = copy.deepcopy(model.transformer)
    merge_lora(twin)
    again = mt.load(tmp_path / "unmerged").transformer.state_dict()
    assert all(torch.equal(x, twin.state_dict()[name]) for name, x in again.items())
    merge_lora(model.transformer)
    model.save(tmp_path / "merged")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("unmerged", "merged"))
    assert first.keys() == load_file(checkpoint(case) / "model.safetensors").keys()
    assert all(torch.equal(x, second[name]) for name, x in first.items())


def test_a_model_with_bottlenecks_is_not_saved_without_them(tmp_path):
    model = loaded()
    add_adapters(model.transformer)
    with pytest.raises(ConfigError, match=r"bottleneck adapters, which no checkpoint .* save_adapter"):
        save_checkpoint(model.transformer, model.family, model.raw_config, tmp_path)
    assert not list(tmp_path.iterdir())
