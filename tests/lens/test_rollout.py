"""Rollout and flow, beside the paper's formulas written out, and another library's greatest flow."""

import json

import numpy as np
import pytest
import torch
from lens_models import PAIR, TARGET, TEXT, image, loaded
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from minitransformer import lens
from minitransformer.errors import InputError
from minitransformer.lens.rollout import mixed, products, rollout


def plain(weights, residual):
    """In numpy: mean over heads, the residual stream, the rows normalised, the layers multiplied."""
    found, so_far = [], np.eye(weights.shape[-1])
    for layer in weights.double().numpy():
        one = (1 - residual) * layer.mean(0) + residual * np.eye(layer.shape[-1])
        so_far = (one / one.sum(1, keepdims=True)) @ so_far
        found.append(so_far)
    return np.stack(found)


@pytest.mark.parametrize("residual", [0, 0.5, 0.8, 1])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_rollout_is_the_papers_product(kind, residual):
    found = rollout(loaded(kind), TEXT, residual=residual).stacks[0]
    weights = lens.attention(loaded(kind), TEXT).group().weights
    np.testing.assert_allclose(found.reached.numpy(), plain(weights, residual), atol=1e-6)
    torch.testing.assert_close(found.reached.sum(-1), torch.ones(found.reached.shape[:2]))
    if residual == 1:
        assert torch.equal(found.reached[-1], torch.eye(len(found.tokens)))


def test_the_order_of_the_layers_matters():
    first, second = torch.tensor([[1.0, 0], [1, 0]]), torch.tensor([[0.0, 1], [0, 1]])
    layers = torch.stack((first, second))
    assert products(layers)[1].tolist() == [[1, 0], [1, 0]]  # all look at 1, which looked at 0


def test_a_query_that_sees_nothing_keeps_itself():
    layers = mixed(torch.zeros(1, 2, 3, 3), 0.5)
    assert torch.equal(layers[0], torch.eye(3))
    assert torch.equal(mixed(torch.zeros(1, 2, 3, 3), 0.0)[0], torch.zeros(3, 3))  # and is no NaN


def their_flow(layers, query, key):
    """By scipy, whose pipes are whole numbers wide."""
    count, size = len(layers), layers.shape[-1]
    graph = np.zeros(((count + 1) * size,) * 2, dtype=np.int32)
    for number, layer in enumerate(layers.numpy(), start=1):
        graph[number * size : (number + 1) * size, (number - 1) * size : number * size] = np.round(layer * 1e8)
    return maximum_flow(csr_array(graph), count * size + query, key).flow_value / 1e8


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_flow_is_the_greatest_flow(kind):
    found = rollout(loaded(kind), "The cat sat.", residual=0.3)
    stack, flow = found.stacks[0], found.flow().stacks[0].reached
    assert flow.shape == (1, *stack.layers.shape[1:])
    for query in range(len(stack.tokens)):
        for key in range(len(stack.tokens)):
            assert flow[0, query, key].item() == pytest.approx(their_flow(stack.layers, query, key), abs=1e-5)
    if kind == "gpt2":
        assert not flow[0].triu(1).any()  # nothing flows from what comes later
    assert "flow" in found.flow().title


def test_a_flow_is_refused_where_it_would_take_for_ever():
    with pytest.raises(InputError, match=r"flow: got 41 tokens, expected at most 31 for 2 layers; shorten"):
        rollout(loaded("bert"), "cat. " * 13).flow()


def test_two_stacks_each_by_itself():
    found = rollout(loaded("t5"), TEXT, PAIR, target=TARGET)
    assert [stack.name for stack in found.stacks] == ["encoder", "decoder"]
    assert [stack.reached.shape[0] for stack in found.stacks] == [3, 2]
    assert "cross-attention is not" in str(found)
    assert [tab.name for tab in found.tabs()] == ["rollout: encoder", "rollout: decoder"]


def test_what_is_shown(tmp_path):
    found = rollout(loaded("vit"), image())
    (tab,) = found.tabs()
    assert tab.row_labels == found.stacks[0].tokens
    for name, query, token, key, source, share in found.table().rows:
        assert share == found.stacks[0].reached[-1, query, key].item()
        assert (name, token, source) == ("attention", found.stacks[0].tokens[query], found.stacks[0].tokens[key])
    first = [row[5] for row in found.table().rows[:3]]
    assert first == sorted(found.stacks[0].reached[-1, 0].tolist(), reverse=True)[:3]
    assert json.loads(found.save(tmp_path / "a.json").read_text())["rows"]
    assert "[CLS]" in found.save(tmp_path / "a.svg").read_text()


@pytest.mark.parametrize("residual", [-0.1, 1.1, "half", None, True, float("nan")])
def test_a_residual_that_is_no_share(residual):
    with pytest.raises(InputError, match="residual: got"):
        rollout(loaded("bert"), TEXT, residual=residual)
    with pytest.raises(InputError, match="group: got 'x', expected one of attention"):
        rollout(loaded("bert"), TEXT).figure("x")
