"""A block that computes several times: the same numbers as copies of it, and one value to look at for each turn."""

import pytest
import torch
from small_models import albert, ids, noisy, padding, paper, stack

from minitransformer.model import capture
from minitransformer.model.capture import points
from minitransformer.model.stack import Stack
from minitransformer.ops import BOOKS

IDS, MASK = ids(3, 5), padding([5, 2, 4], 5)
books = pytest.mark.parametrize("book", BOOKS)


def shared_and_copied(order, book="fused"):
    """A stack whose layers take turns, and one with a copy of the right layer for each turn."""
    shared = noisy_stack(stack(layers=len(set(order)), layer_order=order), book)
    copied = noisy_stack(stack(layers=len(order)), book)
    for turn, layer in enumerate(order):
        copied.layers[turn].load_state_dict(shared.layers[layer].state_dict())
    return shared, copied


def noisy_stack(config, book):
    module = Stack(config).double()
    for part in module.modules():
        if hasattr(part, "book"):
            part.book = BOOKS[book]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module


@books
@pytest.mark.parametrize("order", [(0, 0, 0), (1, 0, 1), (0, 1, 2, 0)])
def test_shared_layers_are_copies_with_summed_gradients(order, book):
    shared, copied = shared_and_copied(order, book)
    x, mask = torch.randn(3, 5, 12).double(), MASK[:, None, None].bool()
    one, other = shared(x, mask=mask), copied(x, mask=mask)
    assert torch.equal(one, other)
    one.square().sum().backward()
    other.square().sum().backward()
    for layer, block in enumerate(shared.layers):
        for name, parameter in block.named_parameters():
            turns = [turn for turn, wanted in enumerate(order) if wanted == layer]
            total = sum(dict(copied.layers[turn].named_parameters())[name].grad for turn in turns)
            torch.testing.assert_close(parameter.grad, total, rtol=1e-11, atol=1e-11)


def test_blocks_are_named_by_turn_and_parameters_by_layer():
    shared, _ = shared_and_copied((1, 0, 1))
    assert len(list(shared.layers)) == 2
    assert shared.blocks == [shared.layers[1], shared.layers[0], shared.layers[1]]


@books
def test_one_value_for_each_turn(book):
    """ALBERT's: five turns of two layers."""
    model = noisy(albert(), book)
    out = model(IDS, MASK, output_hidden_states=True, output_attentions=True)
    assert (len(out.hidden_states), len(out.attentions)) == (6, 5)
    x, mask = out.hidden_states[0], MASK[:, None, None].bool()
    torch.testing.assert_close(x, model.embed(IDS), rtol=0, atol=0)
    for turn, block in enumerate(model.encoder.blocks):
        torch.testing.assert_close(out.hidden_states[turn], x, rtol=1e-11, atol=1e-11)
        with capture(model, f"blocks.{turn}.attn.hook_pattern") as seen:
            model(IDS, MASK)
        torch.testing.assert_close(out.attentions[turn], next(iter(seen.values())), rtol=1e-11, atol=1e-11)
        x = block(x, mask=mask)
    torch.testing.assert_close(out.hidden_states[5], x, rtol=1e-11, atol=1e-11)
    assert torch.equal(out.hidden_states[5], out.last_hidden_state)
    for earlier, later in zip(out.attentions, out.attentions[1:], strict=False):
        assert not torch.equal(earlier, later)


@books
def test_every_point_of_every_turn(book):
    """Against the same model with a layer of its own for each turn."""
    shared, copied = noisy(albert(), book), noisy(albert(encoder=stack(layers=5)), book)
    order = shared.config.encoder.order
    weights = {name: x for name, x in shared.state_dict().items() if not name.startswith("encoder.layers.")}
    for turn, layer in enumerate(order):
        block = shared.encoder.layers[layer].state_dict()
        weights |= {f"encoder.layers.{turn}.{name}": x for name, x in block.items()}
    copied.load_state_dict(weights)
    found = []
    for model in (shared, copied):
        with capture(model, ["*"]) as seen:
            model(IDS, MASK)
            first = dict(seen)
            model(IDS[:, :4], MASK[:, :4])  # and in the next pass the turns begin anew
        found.append((first, dict(seen)))
    assert set(found[0][0]) == set(found[1][0]) == set(points(shared))
    for ours, theirs in zip(*found, strict=True):
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), name
    assert all(part.book is BOOKS[book] for part in shared.modules() if hasattr(part, "book"))


def test_turns_of_two_stacks_and_cross_attention():
    model = noisy(paper(layer_order=(0, 1, 0)))
    out = model(IDS, MASK, decoder_input_ids=IDS, output_hidden_states=True, output_attentions=True)
    assert len(out.encoder_attentions) == len(out.decoder_attentions) == len(out.cross_attentions) == 3
    assert len(out.encoder_hidden_states) == len(out.decoder_hidden_states) == 4
    assert not torch.equal(out.cross_attentions[0], out.cross_attentions[2])
