"""Types of heads: attention of a known type is found to be of it, no other is; chance is what equal weights give."""

import json

import pytest
import torch
from lens_models import TARGET, TEXT, fresh, image, loaded

from minitransformer import lens
from minitransformer.errors import InputError
from minitransformer.lens.head_types import GroupTypes, head_types
from minitransformer.lens.patterns import cross_targets, scores, self_targets

#                0  1  2  3  4  5  6  7  8  9
IDS = torch.tensor([2, 7, 8, 9, 3, 7, 8, 9, 6, 3])  # 2 and 3 stand around texts; 7 8 9 comes twice
SPECIAL = (IDS == 2) | (IDS == 3)
T = len(IDS)
# type -> query -> its keys, written down by hand
BY_HAND = {
    "previous": {q: [q - 1] for q in range(1, T)},
    "next": {q: [q + 1] for q in range(T - 1)},
    "self": {q: [q] for q in range(T)},
    "first": {q: [0] for q in range(1, T)},
    "separator": {q: [4, 9] for q in range(T)},
    "duplicate": {1: [5], 2: [6], 3: [7], 5: [1], 6: [2], 7: [3]},
    "induction": {5: [2], 6: [3], 7: [4]},
}


def pattern(name, elsewhere=8):
    """One head [1 1 T T] that attends to the keys of a type alone; queries without one attend elsewhere."""
    weights = torch.zeros(T, T)
    for query in range(T):
        keys = BY_HAND[name].get(query, [elsewhere])
        weights[query, keys] = 1 / len(keys)
    return weights[None, None]


@pytest.mark.parametrize("name", BY_HAND)
def test_the_keys_of_a_type(name):
    keys = self_targets(IDS, SPECIAL)[name]
    found = {query: row.nonzero()[:, 0].tolist() for query, row in enumerate(keys) if row.any()}
    assert found == BY_HAND[name]


@pytest.mark.parametrize("name", BY_HAND)
def test_a_head_of_a_type_is_found(name):
    tallies = scores(pattern(name), self_targets(IDS, SPECIAL))
    assert list(tallies) == list(BY_HAND)
    means = torch.stack([tally.mass / tally.queries for tally in tallies.values()])
    chance = torch.tensor([tally.chance / tally.queries for tally in tallies.values()])
    group = GroupTypes("attention", tuple(tallies), means, chance)
    assert group.scores[group.types.index(name), 0, 0] == pytest.approx(1)
    assert group.type_of(0, 0) == name


@pytest.mark.parametrize("causal", [False, True])
def test_chance_is_the_score_of_equal_weights(causal):
    allowed = torch.ones(T, T, dtype=torch.bool)
    allowed = allowed.tril() if causal else allowed
    equal = (allowed / allowed.sum(-1, keepdim=True))[None, None]
    tallies = scores(equal, self_targets(IDS, SPECIAL), allowed)
    assert ("next" in tallies) == (not causal)
    for name, tally in tallies.items():
        assert tally.mass.item() == pytest.approx(tally.chance), name
        count = sum(any(allowed[q, k] for k in keys) for q, keys in BY_HAND[name].items())
        assert tally.queries == count, name
    means = torch.stack([tally.mass / tally.queries for tally in tallies.values()])
    chance = torch.tensor([tally.chance / tally.queries for tally in tallies.values()])
    assert GroupTypes("attention", tuple(tallies), means, chance).type_of(0, 0) == "none"


def test_a_token_that_comes_twice_side_by_side_is_no_induction():
    """The place behind the first of the two is the query's own."""
    keys = self_targets(torch.tensor([5, 5, 5]), torch.zeros(3, dtype=torch.bool))["induction"]
    assert keys.nonzero().tolist() == [[2, 1]]


def test_the_mean_is_over_all_queries_of_all_texts():
    ids = IDS[:3]  # 3 queries, of which 2 have a token before
    long, short = (
        scores(pattern("previous"), self_targets(IDS, SPECIAL)),
        scores(torch.eye(3)[None, None], self_targets(ids, SPECIAL[:3])),
    )
    both = long["previous"] + short["previous"]
    assert (both.mass.item(), both.queries) == (9, 11)
    assert "separator" not in short


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (4, 7), (9, 3), (2, 2)])
def test_cross_attention_along_a_diagonal(queries, keys):
    targets = cross_targets(queries, keys)
    places = [round(q * (keys - 1) / (queries - 1)) for q in range(queries)]
    assert all(targets["diagonal"][q, k] for q, k in enumerate(places))
    assert torch.equal(targets["anti-diagonal"], targets["diagonal"].flip(1))
    if keys > 4:
        assert not targets["diagonal"][0, 2:].any()
    weights = torch.zeros(1, 2, queries, keys)
    for q, k in enumerate(places):
        weights[0, 0, q, k] = weights[0, 1, q, keys - 1 - k] = 1
    tallies = scores(weights, targets)
    assert (tallies["diagonal"].mass[0, 0] / queries).item() == 1
    assert (tallies["anti-diagonal"].mass[0, 1] / queries).item() == 1


def test_one_query_has_no_diagonal():
    assert cross_targets(1, 5) == {}


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "bart-classifier"])
def test_whole_models(kind):
    found = head_types(loaded(kind))
    group, config = found.groups[0], loaded(kind).transformer.config
    stack = config.encoder or config.decoder
    assert group.scores.shape == (len(group.types), stack.layers, stack.heads)
    assert {"previous", "duplicate", "induction"} <= set(group.types)
    assert ("next" in group.types) == (not stack.causal)
    assert ((group.scores >= 0) & (group.scores <= 1 + 1e-6)).all()
    assert torch.equal(found.groups[0].scores, head_types(loaded(kind)).groups[0].scores)  # the seed is fixed
    torch.testing.assert_close(group.scores, group.chance[:, None, None].expand_as(group.scores), atol=0.15, rtol=0)


def test_a_model_made_to_attend_to_the_previous_token():
    """T5's attention is what its table of distances says: -1 alone has a high bias."""
    model = fresh("t5-base")
    attention, table = model.transformer.encoder.layers, model.transformer.encoder.relative_bias
    with torch.no_grad():
        for block in attention:
            block.self_attn.q.weight.zero_()
        table.weight.zero_()
        table.weight[1, 0] = 30.0  # bucket 1: the key stands one place before; head 0
    found = head_types(model, [TEXT], target=TARGET)
    assert [group.name for group in found.groups] == ["encoder", "decoder", "cross"]
    encoder = found.groups[0]
    assert [encoder.type_of(layer, 0) for layer in range(3)] == ["previous"] * 3
    assert [encoder.type_of(layer, 1) for layer in range(3)] == ["none"] * 3
    rows = found.table().rows
    assert rows[0][:4] == ("encoder", 0, 0, "previous")
    assert rows[0][4] == pytest.approx(1, abs=1e-3)
    assert set(found.groups[2].types) == {"diagonal", "anti-diagonal"}


def test_images():
    found = head_types(loaded("vit"), image())
    assert set(found.groups[0].types) == {"previous", "next", "self", "first"}
    assert "1 image" in found.title
    with pytest.raises(InputError, match="texts: got none, and this model reads images"):
        head_types(loaded("vit"))


def test_bad_input():
    with pytest.raises(InputError, match="texts: got 0"):
        head_types(loaded("bert"), [])
    with pytest.raises(InputError, match="texts: got 1 and 2 targets"):
        head_types(loaded("t5"), [TEXT], target=[TARGET, TARGET])
    with pytest.raises(InputError, match="target: this model has one stack"):
        head_types(loaded("bert"), [TEXT], target=TARGET)
    with pytest.raises(InputError, match="group: got 'x', expected one of attention"):
        head_types(loaded("bert"), [TEXT]).figure("x")


def test_what_is_shown(tmp_path):
    found = lens.head_types(loaded("gpt2"), [TEXT])
    tabs = found.tabs()
    assert [tab.name for tab in tabs] == list(found.groups[0].types)
    assert all(tab.selects == "attention" and tab.values.shape == (3, 5) for tab in tabs)
    read = json.loads(found.save(tmp_path / "a.json").read_text())
    assert len(read["rows"]) == 15
    assert "induction" in found.save(tmp_path / "a.svg").read_text()
    assert "induction" in str(found)
