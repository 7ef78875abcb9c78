"""What trains, at which rate, and with which decay."""

import json

import pytest
import torch
import transformers
from oracle import CASES, IMAGES, PLAIN, Case, checkpoint, make_batch, make_targets, theirs

import minitransformer as mt
from minitransformer.checkpoint.plan import make_plan_to_save
from minitransformer.errors import ConfigError
from minitransformer.families import FAMILIES
from minitransformer.finetune.recipe import Recipe
from minitransformer.finetune.what_trains import (
    choose,
    layers_above,
    parameter_groups,
    prepare,
    reinitialise_top,
    trainable_at,
    unfreeze,
)
from minitransformer.model import build
from minitransformer.model.adapters import add_adapters, add_lora, beside

BERT = Case("bert", "sequence-classification")
BART = Case("bart", "sequence-classification")  # 3 layers in the encoder, 2 in the decoder
ONE_OF_EACH = list({case.family: case for case in PLAIN}.values())
ONE_OF_EACH += [case for case in PLAIN if case.head in ("masked-lm", "causal-lm", "seq2seq-lm")]


def loaded(case=BERT):
    return mt.load(checkpoint(case)).transformer


def layers_of(names):
    """Which blocks the names speak of: (stack, number)."""
    return {(name.split(".")[0], int(name.split(".")[2])) for name in names if ".layers." in name}


def others(names):
    return {name.rpartition(".")[0] for name in names if ".layers." not in name}


@pytest.mark.parametrize(
    ("train", "layers", "besides"),
    [
        ("head", set(), {"head.cls", "pooler"}),
        ("top:1", {1}, {"head.cls", "pooler"}),
        ("top:2", {0, 1}, {"head.cls", "pooler"}),
        ("layers:0", {0}, {"head.cls", "pooler"}),
        ("layers:0-1", {0, 1}, {"head.cls", "pooler"}),
        ("encoder", {0, 1}, {"head.cls", "pooler"}),
    ],
)
def test_choices(train, layers, besides):
    model = loaded()
    names = choose(model, train)
    assert names == [name for name, x in model.named_parameters() if x.requires_grad]
    assert layers_of(names) == {("encoder", layer) for layer in layers}
    assert others(names) == besides
    inside = [name for name, _ in model.named_parameters() if layers_of([name]) <= {("encoder", i) for i in layers}]
    assert {name for name in inside if ".layers." in name} <= set(names)  # whole blocks


def test_all_is_all_whatever_was_before():
    model = loaded()
    choose(model, "head")
    assert choose(model, "all") == [name for name, _ in model.named_parameters()]
    assert all(x.requires_grad for x in model.parameters())


@pytest.mark.parametrize(
    ("train", "layers"),
    [
        ("top:1", {("encoder", 2), ("decoder", 1)}),
        ("layers:2", {("encoder", 2)}),
        ("layers:0,2", {("encoder", 0), ("encoder", 2), ("decoder", 0)}),
        ("encoder", {("encoder", 0), ("encoder", 1), ("encoder", 2)}),
        ("decoder", {("decoder", 0), ("decoder", 1)}),
    ],
)
def test_two_stacks(train, layers):
    assert layers_of(choose(loaded(BART), train)) == layers


def test_norms_and_relative_positions_belong_to_a_block():
    gpt = loaded(Case("gpt2", "sequence-classification"))
    assert "decoder.final_norm" in others(choose(gpt, "top:1"))
    assert "decoder.final_norm" in others(choose(gpt, "layers:2"))
    assert "decoder.final_norm" not in others(choose(gpt, "layers:0-1"))
    t5 = loaded(Case("t5", "seq2seq-lm"))  # 3 layers and 2
    assert "encoder.relative_bias" in others(choose(t5, "layers:0"))
    assert "encoder.relative_bias" not in others(choose(t5, "top:2"))
    assert "decoder.relative_bias" in others(choose(t5, "top:2"))


def test_tables_and_heads_that_are_one_stay():
    gpt, bert = loaded(Case("gpt2", "causal-lm")), loaded(Case("bert", "masked-lm"))
    assert not others(choose(gpt, "top:1")) - {"decoder.final_norm"}
    with pytest.raises(ConfigError, match="this model has none of its own"):
        choose(gpt, "head")
    assert set(choose(bert, "head")) == {
        "head.lm.bias", "head.lm.dense.weight", "head.lm.dense.bias", "head.lm.norm.weight", "head.lm.norm.bias"
    }  # fmt: skip
    assert "head.lm.weight" in choose(loaded(Case("bert", "masked-lm", "odd")), "head")  # untied: its own


def test_biases():
    """The share of BERT-base is the paper's: 0.08 % to 0.09 % without the head."""
    raw = json.loads(json.dumps(transformers.BertConfig().to_dict()))
    model = build(FAMILIES["bert"].translate(raw, "sequence-classification"), device="meta")
    names = set(choose(model, "bias"))
    biases = [x for name, x in model.named_parameters() if name in names and not name.startswith(("head.", "pooler."))]
    assert all(x.ndim == 1 for x in biases)
    whole = sum(x.numel() for x in model.parameters())
    assert 0.0008 < sum(x.numel() for x in biases) / whole < 0.001
    assert {"head.cls.weight", "pooler.weight"} < names
    with pytest.raises(ConfigError, match="this model has no biases; try lora"):
        choose(loaded(Case("t5", "seq2seq-lm")), "bias")


@pytest.mark.parametrize(("train", "add"), [("lora", add_lora), ("adapter", add_adapters)])
def test_adapters_train_alone_with_a_head_that_is_not_a_language_model(train, add):
    model = loaded()
    with pytest.raises(ConfigError, match=rf"train: got '{train}', but the model has none; call add_"):
        choose(model, train)
    add(model)
    head = {"head.cls.weight", "head.cls.bias", "pooler.weight", "pooler.bias"}
    assert set(choose(model, train)) == beside(model).keys() | head
    writer = loaded(Case("bert", "masked-lm"))
    add(writer)
    assert set(choose(writer, train)) == beside(writer).keys()


@pytest.mark.parametrize("train", ["lora", "adapter", "head", "bias", "top:1", "layers:0"])
def test_a_step_moves_what_was_chosen_and_nothing_else(train):
    model = loaded()
    recipe = Recipe(train=train, learning_rate=0.1, lora_rank=2, adapter_size=3)
    prepare(model, recipe)
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe))
    batch = make_batch(BERT)
    for _ in range(2):  # what LoRA's A gets at first is zeros, as B is
        optimizer.zero_grad()
        model(**batch, **make_targets(BERT, batch)).loss.backward()
        optimizer.step()
    moved = {name for name, x in model.named_parameters() if not torch.equal(x, before[name])}
    assert moved == {name for name, x in model.named_parameters() if x.requires_grad}


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("everything", "train: got 'everything', expected all, head, top:N"),
        ("all:2", "train: got 'all:2'"),
        ("top", "expected numbers, as in top:2"),
        ("top:0", "train: got 'top:0'.*this model's layers: encoder 0 to 1"),
        ("top:3", "train: got 'top:3'.*encoder 0 to 1"),
        ("top:-1", "expected numbers"),
        ("layers:2", "train: got 'layers:2'.*encoder 0 to 1"),
        ("layers:", "expected numbers"),
        ("layers:1-0", "expected the lower number first"),
        ("layers:0-999999999", "expected numbers"),
        ("decoder", "train: got 'decoder'.*encoder 0 to 1"),
        ("lora:3", "train: got 'lora:3'"),
    ],
)
def test_choices_that_there_are_not(train, message):
    model = loaded()
    with pytest.raises(ConfigError, match=message):
        choose(model, train)
    assert all(x.requires_grad for x in model.parameters())


def test_shared_layers_cannot_be_told_apart():
    model = loaded(Case("albert", "sequence-classification"))
    for call in (
        lambda: choose(model, "top:1"),
        lambda: choose(model, "layers:0"),
        lambda: reinitialise_top(model, 1),
        lambda: trainable_at(model, "all", 1.0, 0.0),
        lambda: parameter_groups(model, Recipe(learning_rate=1e-3, layer_decay=0.9)),
    ):
        with pytest.raises(ConfigError, match="the 3 layers of this model share weights"):
            call()
    assert parameter_groups(model, Recipe(learning_rate=1e-3))
    assert choose(model, "encoder")
    assert Case("albert", "base", "same-width") in CASES
    assert choose(loaded(Case("albert", "base", "same-width")), "top:1")  # as many groups as layers


def names_by_decay(model):
    groups = parameter_groups(model, Recipe(learning_rate=1e-3, weight_decay=0.1))
    return {name for group in groups if group["weight_decay"] for name in group["names"]}


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_what_decays_is_what_decays_in_transformers(case):
    model = mt.load(checkpoint(case))
    reference = theirs(case)
    decaying = transformers.Trainer.get_decay_parameter_names(None, reference)
    plan = make_plan_to_save(model.family, model.transformer)
    in_memory = {}
    for entry in plan.entries:
        name = f"{model.family.module_of(entry.file)}.{entry.file.rpartition('.')[2]}".removeprefix(".")
        in_memory.update(dict.fromkeys(entry.ours, name))
    trained = {name for name, x in model.transformer.named_parameters() if x.requires_grad}
    expected = {name for name in trained if in_memory[name] in decaying}
    assert names_by_decay(model.transformer) == expected
    assert expected
    assert expected != trained
    assert (case.family in IMAGES) == ("embed.class_token" in expected)


def test_every_weight_that_trains_is_in_one_group():
    model = loaded(BART)
    choose(model, "top:1")
    groups = parameter_groups(model, Recipe(learning_rate=1e-3, head_learning_rate=1e-2, layer_decay=0.5))
    names = [name for group in groups for name in group["names"]]
    assert sorted(names) == sorted(name for name, x in model.named_parameters() if x.requires_grad)
    parameters = dict(model.named_parameters())
    assert all(
        x is parameters[name] for group in groups for name, x in zip(group["names"], group["params"], strict=True)
    )
    assert all(group["lr"] == group["peak"] for group in groups)
    for x in model.parameters():
        x.requires_grad_(False)
    with pytest.raises(ConfigError, match="nothing trains"):
        parameter_groups(model, Recipe(learning_rate=1e-3))
    with pytest.raises(ConfigError, match="learning_rate: got None"):
        parameter_groups(model, Recipe())


def test_rates_fall_from_layer_to_layer():
    model = loaded(BART)
    recipe = Recipe(learning_rate=1.0, layer_decay=0.5, head_learning_rate=7.0)
    peaks = {name: group["peak"] for group in parameter_groups(model, recipe) for name in group["names"]}
    for name, rate in {
        "head.cls.weight": 7.0,
        "encoder.layers.2.ffn.up.weight": 1.0,
        "encoder.layers.1.ffn.up.bias": 0.5,
        "encoder.layers.0.self_attn.q.weight": 0.25,
        "decoder.layers.1.cross_attn.q.weight": 1.0,
        "decoder.layers.0.self_attn_norm.weight": 0.5,
        "embed.tokens.weight": 0.125,
        "embed.norm.weight": 0.125,
        "target_embed.positions.weight": 0.125,
    }.items():
        assert peaks[name] == rate, name
    t5 = loaded(Case("t5", "seq2seq-lm"))
    assert [layers_above(t5, name) for name in ("encoder.relative_bias.weight", "encoder.final_norm.weight")] == [2, 0]
    assert layers_above(t5, "decoder.relative_bias.weight") == 1
    plain = parameter_groups(loaded(), Recipe(learning_rate=2e-5))
    assert {group["peak"] for group in plain} == {2e-5}
    assert len(plain) == 2


def test_gradual_unfreezing():
    model, recipe = loaded(), Recipe(train="all", unfreeze_every=0.5, learning_rate=1e-3)
    seen = []
    for epoch in (0.0, 0.4, 0.5, 0.99, 1.0, 1.5, 9.0):
        unfreeze(model, recipe, epoch)
        names = [name for name, x in model.named_parameters() if x.requires_grad]
        assert names == trainable_at(model, "all", 0.5, epoch)
        seen.append((len(layers_of(names)), "embed.tokens.weight" in names))
        assert {"head.cls.weight", "pooler.weight"} <= set(names)
    assert seen == [(0, False), (0, False), (1, False), (1, False), (2, False), (2, True), (2, True)]
    assert layers_of(trainable_at(model, "all", 0.5, 0.5)) == {("encoder", 1)}
    assert not set(trainable_at(model, "encoder", 0.5, 9.0)) & {"embed.tokens.weight"}  # no more than was chosen
    assert unfreeze(model, recipe, 0.0)
    assert not unfreeze(model, recipe, 0.1)
    assert not unfreeze(model, Recipe(), 0.0)
    assert not model.embed.tokens.weight.requires_grad


@pytest.mark.parametrize("case", [BERT, BART, Case("t5", "seq2seq-lm")], ids=str)
def test_new_values_for_the_top(case):
    model = loaded(case)
    before = {name: x.detach().clone() for name, x in model.named_parameters()}
    reinitialise_top(model, 1)
    moved = {name for name, x in model.named_parameters() if not torch.equal(x, before[name])}
    stacks = [(name, getattr(model, name)) for name in ("encoder", "decoder") if getattr(model, name) is not None]
    assert layers_of(moved) == {(name, len(stack.layers) - 1) for name, stack in stacks}
    assert others(moved) == ({"pooler"} if model.pooler is not None else set())
    whole = {name for name in before if layers_of([name]) and layers_of([name]) <= layers_of(moved)}
    assert whole <= moved
    for name, x in model.named_parameters():
        if name in whole and x.ndim == 2:
            assert 0.01 < x.std() < 0.03
        elif name in whole:
            assert torch.equal(x, torch.ones_like(x) if "norm.weight" in name else torch.zeros_like(x)), name
    with pytest.raises(ConfigError, match="reinitialise_top: got 9, expected 1 to"):
        reinitialise_top(model, 9)


def test_a_recipe_is_prepared_in_order():
    model, twin = loaded(), loaded()
    torch.manual_seed(3)
    prepare(model, Recipe(train="lora", lora_targets="k, down", lora_rank=2, lora_alpha=3, reinitialise_top=1))
    layer = model.encoder.layers[1].ffn.down
    assert (layer.rank, layer.alpha) == (2, 3)
    torch.manual_seed(3)
    reinitialise_top(twin, 1)
    assert torch.equal(layer.weight, twin.encoder.layers[1].ffn.down.weight)
    assert {name.split(".")[-2] for name in beside(model)} == {"k", "down"}
