"""What an explanation says in words and in its table, and from where on a head is called by its type."""

import re
from pathlib import Path

import pytest
import torch
from lens_models import TARGET, TEXT, loaded

import minitransformer
from minitransformer import lens
from minitransformer.lens.head_types import GroupTypes

FIRST = {"pre": "return x + sublayer(norm(x))", "post": "return norm(x + sublayer(x))"}
DOES = {"y": "source = x if", "q": "self.q(x)", "k": "self.k(source)", "v": "self.v(source)", "scores": "q @ k.trans",
        "biased": "scores + bias", "masked": "masked_fill", "weights": "e / e.sum", "z": "@ v", "result": "self.o(",
        "q turned": "q = self.book.rotary(q", "k turned": "k = self.book.rotary(k"}  # fmt: skip
KINDS = [("bert", None), ("gpt2", None), ("llama", None), ("t5", "cross"), ("bart", "decoder")]


def explained(kind, attention=None, layer=1, head=1, query=2):
    target = TARGET if attention else None
    return lens.explain(loaded(kind), TEXT, layer, head, query, target=target, attention=attention)


@pytest.mark.parametrize(("kind", "attention"), KINDS)
def test_the_code_of_each_step_stands_in_the_source(kind, attention):
    package = Path(minitransformer.__file__).parent
    files = [*package.glob("modules/*.py"), package / "ops" / "by_hand.py"]
    source = {line.split("  #")[0].strip() for file in files for line in file.read_text("utf-8").splitlines()}
    order = "post" if kind in ("bert", "bart") else "pre"
    for step in explained(kind, attention).steps:
        assert step.code in source
        assert DOES.get(step.symbol, FIRST[order]) in step.code, step.symbol


@pytest.mark.parametrize(("kind", "attention"), KINDS)
def test_layers_count_from_the_end_too(kind, attention):
    last = explained(kind, attention, layer=len(loaded(kind).weights(attention).W_Q) - 1)
    assert explained(kind, attention, layer=-1).to_dict() == last.to_dict()
    assert explained(kind, attention, layer=0).to_dict() != last.to_dict()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_how_many_keys_are_hidden(kind):
    count = len(loaded(kind).read(TEXT).tokens)
    for query in (0, 3, count - 1):
        (note,) = (step.note for step in explained(kind, query=query).steps if step.symbol == "masked")
        later = 0 if kind == "bert" else count - 1 - query
        assert [int(number) for number in re.findall(r"\d+", note)] == ([later, count] if later else [])
        assert ("nothing" in note) == (later == 0)


@pytest.mark.parametrize(("kind", "attention", "head"), [("gpt2", None, 4), ("llama", None, 3), ("t5", "cross", 2)])
def test_how_long_the_vector_is_that_a_key_sends(kind, attention, head):
    name = "decoder.1.cross_attn" if attention else "blocks.1.attn"
    _, cache = loaded(kind).run_with_cache(TEXT, target=TARGET if attention else None, names=f"{name}.*")
    values, pattern = cache[f"{name}.hook_v"][0], cache[f"{name}.hook_pattern"][0]  # [S G E], [H T S]
    group = len(pattern) // values.shape[1]
    assert group == (2 if kind == "llama" else 1)
    table = explained(kind, attention, head=head).table()
    place = table.columns.index("|weight · v|")
    assert len(table.rows) == len(values)
    for key, row in enumerate(table.rows):
        by_hand = sum((pattern[head, 2, key] * x).item() ** 2 for x in values[key, head // group]) ** 0.5
        assert row[place] == pytest.approx(by_hand, abs=1e-6)
        assert row[table.columns.index("weight")] == pytest.approx(pattern[head, 2, key].item(), abs=1e-7)


def test_a_head_is_called_by_the_type_it_is_clearly_above_chance_for():
    chance = torch.tensor([0.1, 0.6])
    above = torch.tensor([[0.4, 0.2, -0.1], [0.1, 0.0, 0.4]])  # of three heads, as shares of the way from chance to 1
    scores = (chance[:, None] + above * (1 - chance[:, None]))[:, None]  # [K L H]
    group = GroupTypes("attention", ("previous", "first"), scores, chance)
    assert [group.type_of(0, head) for head in range(3)] == ["previous", "none", "first"]
    torch.testing.assert_close(group.above[:, 0], above)
