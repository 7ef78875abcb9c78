"""Looking inside: each point is the number that its name says, and looking changes nothing."""

from dataclasses import fields

import pytest
import torch
from plain_transformer import embed, embed_patches, run_stack, unembed
from small_models import (
    albert,
    bart,
    bert,
    deit,
    gpt2,
    ids,
    inputs,
    llama,
    marian,
    noisy,
    padding,
    paper,
    qwen,
    t5,
    vit,
)
from torch import nn

from minitransformer.config import LanguageModelConfig
from minitransformer.errors import InputError
from minitransformer.model import build, capture
from minitransformer.model.capture import points
from minitransformer.ops import BOOKS

SOURCE, SOURCE_MASK = ids(3, 5, seed=1), padding([5, 2, 4], 5)
TARGET, TARGET_MASK = ids(3, 4, seed=2), padding([1, 4, 3], 4)
TYPES = torch.tensor([[0, 0, 1, 1, 2]]).expand(3, 5)
ONE_STACK = {
    "post-norm encoder": (bert(), {"attention_mask": SOURCE_MASK, "token_type_ids": TYPES}),
    "pre-norm decoder": (gpt2(), {"attention_mask": SOURCE_MASK}),
    "padding on the left": (gpt2(), {"attention_mask": SOURCE_MASK.flip(1)}),  # some queries see nothing
    "rotary positions and groups": (llama(), {"attention_mask": SOURCE_MASK}),
    "a window": (qwen(), {"attention_mask": SOURCE_MASK}),
    "shared blocks, narrow tables": (albert(), {"attention_mask": SOURCE_MASK, "token_type_ids": TYPES.clamp(max=1)}),
    "types from tokens": (gpt2(), {"attention_mask": SOURCE_MASK, "token_type_ids": TYPES}),
}
TWO_STACKS = {
    "post-norm": paper(),
    "pre-norm": paper(norm_order="pre", final_norm=True, activation="gelu_tanh"),
    "relative positions": t5(),
    "tables of their own": bart(),
    "sinusoids in halves": marian(),
}
BATCH = {"attention_mask": SOURCE_MASK, "decoder_input_ids": TARGET, "decoder_attention_mask": TARGET_MASK}
books = pytest.mark.parametrize("book", BOOKS)


def logits_reference(model, hidden, table):
    """The language model's points; of a model that has none, nothing."""
    head = getattr(model.config.head, "lm", model.config.head)
    name = "head.lm"
    return unembed(head, model.state_dict(), name, hidden, table)[1] if isinstance(head, LanguageModelConfig) else {}


def one_stack_reference(model, batch):
    config, weights = model.config, model.state_dict()
    x, seen = embed(config.embed, weights, SOURCE, batch.get("token_type_ids"))
    name = "encoder" if config.encoder else "decoder"
    hidden, inside = run_stack(getattr(config, name), weights, name, "blocks", x, batch["attention_mask"])
    return hidden, seen | inside | logits_reference(model, hidden, weights["embed.tokens.weight"])


def two_stacks_reference(model):
    config, weights = model.config, model.state_dict()
    source, seen = embed(config.embed, weights, SOURCE, prefix="encoder.")
    memory, inside = run_stack(config.encoder, weights, "encoder", "encoder", source, SOURCE_MASK)
    own, name = (config.target_embed, "target_embed") if config.target_embed else (config.embed, "embed")
    target, of_target = embed(own, weights, TARGET, name=name, prefix="decoder.")
    hidden, decoder = run_stack(config.decoder, weights, "decoder", "decoder", target, TARGET_MASK, memory, SOURCE_MASK)
    logits = logits_reference(model, hidden, weights[f"{name}.tokens.weight"])
    return memory, hidden, seen | inside | of_target | decoder | logits


def assert_all_near(seen, expected):
    assert set(seen) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=1e-11, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


@books
@pytest.mark.parametrize("name", ONE_STACK)
def test_every_point_of_one_stack(name, book):
    config, batch = ONE_STACK[name]
    model = noisy(config, book)
    with capture(model, ["*"]) as seen:
        out = model(SOURCE, **batch)
    hidden, expected = one_stack_reference(model, batch)
    assert_all_near(seen, expected)
    assert set(seen) == set(points(model))
    torch.testing.assert_close(out.last_hidden_state, hidden, rtol=1e-11, atol=1e-11)


@books
@pytest.mark.parametrize("name", TWO_STACKS)
def test_every_point_of_two_stacks(name, book):
    model = noisy(TWO_STACKS[name], book)
    with capture(model, "*") as seen:
        out = model(SOURCE, **BATCH)
    memory, hidden, expected = two_stacks_reference(model)
    assert_all_near(seen, expected)
    assert set(seen) == set(points(model))
    torch.testing.assert_close(out.encoder_last_hidden_state, memory, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(out.last_hidden_state, hidden, rtol=1e-11, atol=1e-11)


@books
@pytest.mark.parametrize("config", [vit(), deit()], ids=["one special token", "two special tokens"])
def test_every_point_of_images(config, book):
    model = noisy(config, book)
    images = inputs(config)["pixel_values"].double()
    with capture(model, "*") as seen:
        out = model(pixel_values=images)
    weights = model.state_dict()
    x, expected = embed_patches(config.embed, weights, images)
    nothing_padded = torch.ones(x.shape[:2])
    hidden, inside = run_stack(config.encoder, weights, "encoder", "blocks", x, nothing_padded)
    assert_all_near(seen, expected | inside)
    torch.testing.assert_close(out.last_hidden_state, hidden, rtol=1e-11, atol=1e-11)


def test_token_types_that_are_not_given_are_seen_too():
    model = noisy(bert())
    with capture(model, ["hook_token_type_embed"]) as seen:
        model(SOURCE)
    assert torch.equal(seen["hook_token_type_embed"], model.embed.types.weight[0].expand(3, 5, -1))


@books
def test_output_attentions_and_hidden_states(book):
    model = noisy(TWO_STACKS["pre-norm"], book)
    out = model(SOURCE, **BATCH, output_attentions=True, output_hidden_states=True)
    memory, hidden, expected = two_stacks_reference(model)
    insides = {
        "decoder_hidden_states": [expected[f"decoder.{i}.hook_resid_pre"] for i in range(2)] + [hidden],
        "encoder_hidden_states": [expected[f"encoder.{i}.hook_resid_pre"] for i in range(2)] + [memory],
        "decoder_attentions": [expected[f"decoder.{i}.attn.hook_pattern"] for i in range(2)],
        "encoder_attentions": [expected[f"encoder.{i}.attn.hook_pattern"] for i in range(2)],
        "cross_attentions": [expected[f"decoder.{i}.cross_attn.hook_pattern"] for i in range(2)],
    }
    for field, values in insides.items():
        for got, value in zip(getattr(out, field), values, strict=True):
            torch.testing.assert_close(got, value, rtol=1e-11, atol=1e-11)
    assert out.hidden_states is out.attentions is None  # of two stacks, each says in its name whose it is


@books
@pytest.mark.parametrize("name", ONE_STACK)
def test_outputs_of_one_stack(name, book):
    config, batch = ONE_STACK[name]
    model = noisy(config, book)
    out = model(SOURCE, **batch, output_attentions=True, output_hidden_states=True)
    hidden, expected = one_stack_reference(model, batch)
    blocks = len((config.encoder or config.decoder).order)
    for i in range(blocks):
        torch.testing.assert_close(out.attentions[i], expected[f"blocks.{i}.attn.hook_pattern"])
        torch.testing.assert_close(out.hidden_states[i], expected[f"blocks.{i}.hook_resid_pre"])
    torch.testing.assert_close(out.hidden_states[blocks], hidden)
    assert (len(out.attentions), len(out.hidden_states)) == (blocks, blocks + 1)
    assert out.cross_attentions is out.encoder_attentions is out.encoder_hidden_states is None
    assert out.decoder_attentions is out.decoder_hidden_states is None


def test_what_was_not_asked_for_is_none():
    out = noisy(TWO_STACKS["post-norm"])(SOURCE, **BATCH)
    for field in fields(out):
        if "attentions" in field.name or field.name.endswith("hidden_states"):
            assert getattr(out, field.name) is None


def state(model):
    """Everything that a capture might change in a model: hooks and books."""
    return [
        (len(part._forward_hooks), len(part._forward_pre_hooks), getattr(part, "book", None))
        for part in model.modules()
    ]


def untouched(model):
    return all(
        hooks == pre_hooks == 0 and (book is None or book in BOOKS.values()) for hooks, pre_hooks, book in state(model)
    )


@books
def test_afterwards_all_is_as_before(book):
    model = noisy(TWO_STACKS["post-norm"], book)
    before, first = state(model), model(SOURCE, **BATCH).logits
    with capture(model, ["*"]):
        assert not untouched(model)
        model(SOURCE, **BATCH)
    assert state(model) == before
    assert torch.equal(model(SOURCE, **BATCH).logits, first)


def test_also_after_an_exception():
    model = noisy(gpt2())
    with pytest.raises(RuntimeError, match="mine"), capture(model, ["*"]):
        raise RuntimeError("mine")
    assert untouched(model)
    with pytest.raises(InputError, match="input_ids"):
        model(torch.tensor([[99]]), output_attentions=True, output_hidden_states=True)
    assert untouched(model)


@torch.no_grad()
def test_looking_by_hand_gives_the_same_output_bit_for_bit():
    model = noisy(gpt2(), "by_hand")
    plain = model(SOURCE).logits
    with capture(model, ["*"]):
        assert torch.equal(model(SOURCE).logits, plain)


@pytest.mark.parametrize("name", ONE_STACK)
def test_looking_changes_the_output_by_rounding_at_most(name):
    config, batch = ONE_STACK[name]
    model = noisy(config, dtype=torch.float32)
    plain = model(SOURCE, **batch).last_hidden_state
    with capture(model, ["*"]):
        seen = model(SOURCE, **batch).last_hidden_state
    torch.testing.assert_close(seen, plain, rtol=1e-6, atol=2e-6)


def test_captures_in_captures():
    model, pattern, out = noisy(gpt2()), "blocks.0.attn.hook_pattern", "blocks.1.hook_attn_out"
    with capture(model, [pattern, out]) as outer:
        with capture(model, [pattern, "blocks.0.attn.hook_z"]) as inner:
            asked = model(SOURCE, output_attentions=True).attentions[0]
        assert outer[pattern] is inner[pattern] is asked
        assert set(outer) == {pattern, out}
        assert set(inner) == {pattern, "blocks.0.attn.hook_z"}
        model(TARGET)
        assert outer[pattern].shape[-1] == 4
        assert inner[pattern].shape[-1] == 5
    assert untouched(model)


def test_each_pass_is_seen_anew():
    model = noisy(gpt2())
    with capture(model, ["blocks.0.hook_resid_pre"]) as seen:
        assert seen == {}
        for tokens in (SOURCE, TARGET):
            model(tokens)
            assert seen["blocks.0.hook_resid_pre"].shape[:2] == tokens.shape
    model(SOURCE)
    assert seen["blocks.0.hook_resid_pre"].shape[:2] == TARGET.shape


def test_nothing_asked_for_costs_nothing(monkeypatch):
    model = noisy(TWO_STACKS["post-norm"])

    def never(*_):
        raise AssertionError("a hook was registered")

    monkeypatch.setattr(nn.Module, "register_forward_hook", never)
    monkeypatch.setattr(nn.Module, "register_forward_pre_hook", never)
    model(SOURCE, **BATCH)
    with capture(model, []) as seen:
        assert untouched(model)
        model(SOURCE, **BATCH)
    assert seen == {}


def test_gradients_flow_to_and_through_what_is_seen():
    model = noisy(gpt2())
    with capture(model, ["*hook_pattern", "blocks.1.hook_resid_pre"]) as seen:
        out = model(SOURCE).logits
    *patterns, stream = torch.autograd.grad(out.square().sum(), list(seen.values()), retain_graph=True)
    assert stream.abs().min() > 0
    assert all(gradient.abs().max() > 0 for gradient in patterns)
    seen["blocks.0.attn.hook_pattern"].square().sum().backward()
    assert model.embed.tokens.weight.grad.abs().max() > 0


def test_patterns_of_a_training_model_are_seen_before_dropout():
    model = noisy(paper(attention_dropout=0.5)).train()
    out = model(SOURCE, **BATCH, output_attentions=True)
    torch.testing.assert_close(out.encoder_attentions[1].sum(-1), torch.ones(3, 3, 5).double())


def test_looking_at_a_training_model_draws_the_same_dropout():
    model = noisy(paper(dropout=0.3, attention_dropout=0.3), "by_hand").train()
    torch.manual_seed(1)
    plain = model(SOURCE, **BATCH).logits
    torch.manual_seed(1)
    with capture(model, ["*"]):
        torch.testing.assert_close(model(SOURCE, **BATCH).logits, plain, rtol=1e-11, atol=1e-11)


def test_names_with_stars():
    model = build(paper())
    with capture(model, ["decoder.*.hook_resid_post", "encoder.1.attn.hook_?"]) as seen:
        model(SOURCE, decoder_input_ids=TARGET)
    posts = {"decoder.0.hook_resid_post", "decoder.1.hook_resid_post"}
    assert set(seen) == posts | {f"encoder.1.attn.hook_{part}" for part in "qkvz"}


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("blocks.0.attn.hook_patern", "blocks.0.attn.hook_pattern"),
        ("blocks.9.hook_resid_pre", "blocks.0.hook_resid_pre"),
        ("hook_embd", "hook_embed"),
        ("*nothing*", "hook_"),
        ("decoder.0.cross_attn.hook_q", "hook_q"),
    ],
)
def test_unknown_names(name, suggested):
    model = build(gpt2())
    with pytest.raises(InputError, match=f"got the point .*; try .*{suggested}"), capture(model, ["hook_embed", name]):
        pass
    assert untouched(model)
