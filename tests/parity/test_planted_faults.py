"""One fault at a time is planted into a loaded model: parity names the place and the cause."""

import json
from dataclasses import dataclass, replace
from types import MethodType

import pytest
import torch
from oracle import Case, checkpoint, rewritten
from torch import nn

import minitransformer as mt
from minitransformer.checkpoint import load_checkpoint
from minitransformer.families import FAMILIES, Map
from minitransformer.ops import BOOKS

BERT = Case("bert", "masked-lm")
GPT2 = Case("gpt2", "causal-lm")
PRETRAINING = Case("bert", "pretraining")


@dataclass
class Fault:
    """What is done to the model, where it has to be found, and what has to be said."""

    name: str
    plant: object
    place: str
    cause: str
    case: Case = BERT


def layer(model, i):
    return (model.encoder or model.decoder).layers[i]


def every_layer(model, plant):
    for block in (model.encoder or model.decoder).layers:
        plant(block)


def setting(path, **values):
    """Set attributes of the module at `path`."""

    def plant(model):
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return plant


def weight(path, change):
    """Put change(weight) in the place of a weight."""

    def plant(model):
        x = model.get_parameter(path)
        x.data = change(x.data)

    return plant


def swap(first, second):
    def plant(model):
        a, b = model.get_submodule(first), model.get_submodule(second)
        a.weight, b.weight = b.weight, a.weight
        a.bias, b.bias = b.bias, a.bias

    return plant


def one_book_wrong(model):
    for module in model.modules():
        if getattr(module, "book", None) == BOOKS["fused"]:
            module.book = replace(BOOKS["fused"], gelu=BOOKS["fused"].relu)


def positions_off_by_one(model):
    add = model.embed.add_positions
    model.embed.add_positions = lambda x, ids, positions, past: add(x, ids, positions, past + 1)


def positions_dropped(model):
    model.embed.add_positions = lambda x, *_: x


class FromOne(nn.Module):
    """Positions that start at 1."""

    def __init__(self, positions):
        super().__init__()
        self.positions = positions

    def forward(self, ids):
        return self.positions(ids + 1)


def positions_from_one(model):
    model.embed.positions = FromOne(model.embed.positions)


def types_not_passed_on(model):
    embed = model.embed.forward
    model.embed.forward = lambda ids, types, positions=None: embed(ids, None, positions)


def types_ignored(model):
    add = model.embed.add_types
    model.embed.add_types = lambda x, ids: add(x, torch.zeros_like(ids))


def norm_before_sublayer(model):
    def forward(self, x, *, mask=None, **_):
        x = x + self.self_attn(self.self_attn_norm(x), mask=mask)
        return x + self.ffn(self.ffn_norm(x))

    layer(model, 1).forward = MethodType(forward, layer(model, 1))


def ffn_by_a_function(model):
    """The function holds the module itself, not a copy of it."""
    ffn = layer(model, 1).ffn
    ffn.forward = lambda x: ffn.down(nn.functional.relu(ffn.up(x)))


def nan(x):
    return x.clone().index_fill_(0, torch.tensor([1]), torch.nan)


def weight_of(path, source):
    """The weight of one module in the place of another's."""

    def plant(model):
        model.get_submodule(path).weight = model.get_submodule(source).weight

    return plant


def see_no_later_key(model):
    model.encoder.config = replace(model.encoder.config, causal=True)


def no_last_word(x):
    """Another vector for a word that the batch has not, so that only its logit is wrong."""
    return torch.cat((x[:0], x[:1] + 1, x[1:]))


def blocks_in_another_order(model):
    """Each block by itself is right."""
    blocks = model.decoder.layers

    def forward(x, *, mask, **_):
        for block in (blocks[0], blocks[2], blocks[1]):
            x = block(x, mask=mask)
        return model.decoder.final_norm(x)

    model.decoder.forward = forward


def two_faults(model):
    weight(f"{E}.0.self_attn.v.bias", torch.zeros_like)(model)
    setting(f"{E}.0.ffn", activation="relu")(model)


def rolled(x):
    return torch.cat((x[1:], x[:1]))


E, D = "encoder.layers", "decoder.layers"
FAULTS = [
    # the eight
    Fault("tanh GELU for GELU", setting(f"{E}.1.ffn", activation="gelu_tanh"), "block 1", "numbers fit gelu"),
    Fault("GELU for tanh GELU", setting(f"{D}.2.ffn", activation="gelu"), "block 2", "numbers fit gelu_tanh", GPT2),
    Fault("eps of one norm", setting(f"{E}.0.ffn_norm", eps=1e-5), "block 0", "eps of ffn_norm: ours is 1e-05"),
    Fault(
        "eps of all",
        lambda m: every_layer(
            m, lambda b: (setting("self_attn_norm", eps=1e-12)(b), setting("ffn_norm", eps=1e-12)(b))
        ),
        "block 0",
        "eps of self_attn_norm and ffn_norm",
        GPT2,
    ),
    Fault(
        "q and k swapped",
        swap(f"{E}.1.self_attn.q", f"{E}.1.self_attn.k"),
        "block 1",
        "self_attn.k.weight and self_attn.q.weight are swapped",
    ),
    Fault(
        "value bias zero",
        weight(f"{D}.1.self_attn.v.bias", torch.zeros_like),
        "block 1",
        "self_attn.v.bias is missing",
        GPT2,
    ),
    Fault("value bias gone", setting(f"{E}.0.self_attn.v", bias=None), "block 0", "self_attn.v.bias is missing"),
    Fault(
        "transposed", weight(f"{D}.0.self_attn.o.weight", torch.t), "block 0", "self_attn.o.weight is transposed", GPT2
    ),
    Fault("token types zero", weight("embed.types.weight", torch.zeros_like), "embedding", "types.weight is missing"),
    Fault("token types gone", setting("embed", types=None), "embedding", "token types are dropped"),
    Fault("token types ignored", types_ignored, "embedding", "token types are dropped: each is taken as 0"),
    Fault(
        "token types not added",
        setting("embed", add_types=lambda x, ids: x),
        "embedding",
        "token types are dropped",
        GPT2,
    ),
    Fault("positions off by one", positions_off_by_one, "embedding", "positions are off by one"),
    Fault("positions off by one", positions_off_by_one, "embedding", "positions are off by one", GPT2),
    Fault(
        "position table moved",
        weight("embed.positions.weight", rolled),
        "embedding",
        "positions.weight has its rows off by one",
    ),
    Fault("positions not added", positions_dropped, "embedding", "positions are dropped", GPT2),
    Fault(
        "pre-norm for post-norm",
        setting(f"{E}.1.add_norm", order="pre"),
        "block 1",
        "norm order of add_norm: ours is pre, transformers' numbers fit post",
    ),
    Fault(
        "post-norm for pre-norm",
        lambda m: every_layer(m, setting("add_norm", order="post")),
        "block 0",
        "numbers fit pre",
        GPT2,
    ),
    # and more
    Fault("positions from one", positions_from_one, "embedding", "positions are off by one: transformers' are ours -1"),
    Fault("token types not passed on", types_not_passed_on, "embedding", "token types are dropped: each is taken as 0"),
    Fault("relu by a function", ffn_by_a_function, "block 1", "no single known change"),
    Fault("pre-norm by a function", norm_before_sublayer, "block 1", "no single known change"),
    Fault(
        "heads",
        setting(f"{D}.2.self_attn", heads=3, d_head=5, scale=5**-0.5),
        "block 2",
        "transformers' numbers fit 5",
        GPT2,
    ),
    Fault("scale of the scores", setting(f"{E}.0.self_attn", scale=1.0), "block 0", "numbers fit 1/√E"),
    Fault("norms swapped", swap(f"{E}.0.ffn_norm", f"{E}.0.self_attn_norm"), "block 0", "weight are swapped"),
    Fault("wrong sign", weight(f"{D}.0.ffn.down.bias", torch.neg), "block 0", "ffn.down.bias has the wrong sign", GPT2),
    Fault(
        "one number", weight(f"{D}.2.ffn.up.bias", lambda x: x + (x == x[3])), "block 2", "has 1 of 60 numbers", GPT2
    ),
    Fault(
        "q in place of k",
        weight_of(f"{E}.0.self_attn.k", f"{E}.0.self_attn.q"),
        "block 0",
        "self_attn.k.weight is transformers' self_attn.q.weight",
    ),
    Fault("NaN", weight(f"{E}.1.ffn.up.weight", nan), "block 1", "ffn.up.weight holds NaN"),
    Fault("causal", see_no_later_key, "block 0", "the mask: transformers' numbers fit bidirectional attention"),
    Fault("a formula", one_book_wrong, "block 0", "the formula gelu: transformers' numbers fit that of"),
    Fault("eps of the embedding", setting("embed.norm", eps=1e-5), "embedding", "eps of norm: ours is 1e-05"),
    Fault("no norm in the embedding", setting("embed", norm=None), "embedding", "norm is missing"),
    Fault("no final norm", setting("decoder", final_norm=None), "final norm", "is missing", GPT2),
    Fault("eps of the final norm", setting("decoder.final_norm", eps=1e-3), "final norm", "eps: ours is 0.001", GPT2),
    Fault(
        "pooler transposed", weight("pooler.weight", torch.t), "pooler", "weight is transposed", Case("bert", "base")
    ),
    Fault(
        "activation of the head",
        setting("head.lm", activation="relu"),
        "head: logits",
        "activation of lm: ours is relu",
    ),
    Fault("eps of the head", setting("head.lm.norm", eps=1e-5), "head: logits", "eps of lm.norm: ours is 1e-05"),
    Fault(
        "bias of the head", weight("head.lm.bias", torch.zeros_like), "head: logits", "lm.bias is missing: all zeros"
    ),
    Fault(
        "second head",
        weight("head.pairs.weight", torch.neg),
        "head: seq_relationship_logits",
        "pairs.weight has",
        PRETRAINING,
    ),
    Fault(
        "a word of the table", weight("embed.tokens.weight", no_last_word), "head: logits", "to which the head is tied"
    ),
    Fault(
        "blocks in another order", blocks_in_another_order, "block 1", "the way the model puts its parts together", GPT2
    ),
    Fault(
        "two faults",
        two_faults,
        "block 0",
        "self_attn.v.bias is missing: all zeros; the activation of ffn: ours is relu",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.name}-{fault.case.family}")
def test_fault_is_found_and_named(fault):
    model = mt.load(checkpoint(fault.case))
    fault.plant(model.transformer)
    report = mt.parity(model)
    assert not report.equal
    assert (report.first_divergence, fault.cause in report.cause) == (fault.place, True), str(report)
    assert report.to_dict()["first_divergence"] == fault.place
    assert fault.place in str(report)
    assert report.cause in str(report)


def test_fault_shows_in_its_own_part_and_is_inherited_by_the_later_ones():
    model = mt.load(checkpoint(GPT2))
    setting(f"{D}.1.ffn", activation="relu")(model.transformer)
    verdicts = {row.place: row.verdict for row in mt.parity(model).rows}
    assert verdicts == {
        "embedding": "equal",
        "block 0": "equal",
        "block 1": "diverges",
        "block 2": "inherited",
        "final norm": "inherited",
        "head: logits": "inherited",
    }


def test_key_bias_changes_no_number_and_is_noted():
    """q · (k + b) = q · k + q · b: the same for every key, so the softmax does not see it."""
    model = mt.load(checkpoint(BERT))
    weight(f"{E}.0.self_attn.k.bias", torch.zeros_like)(model.transformer)
    report = mt.parity(model, double=True)
    assert report.equal
    assert any("encoder.layers.0.self_attn.k.bias" in note for note in report.notes)


def test_fault_in_one_book_only(monkeypatch):
    monkeypatch.setitem(BOOKS, "by_hand", replace(BOOKS["by_hand"], gelu=torch.nn.functional.silu))
    report = mt.parity(checkpoint(BERT))
    row = report.rows[1]
    assert report.first_divergence == row.place == "block 0"
    assert report.cause == "the formula gelu: transformers' numbers fit that of the book fused"
    assert row.by_hand > row.tolerance > row.fused


def test_small_eps_is_found_where_float32_sees_nothing():
    """A norm of large values hides its eps in float32's rounding, not in float64's."""
    folder = rewritten(
        checkpoint(BERT), tensors=lambda x: {k: v * 30 if "token_type" in k else v for k, v in x.items()}
    )
    model = mt.load(folder)
    model.transformer.embed.norm.eps = 1e-7
    report = mt.parity(model)
    row = report.rows[0]
    assert max(row.fused, row.by_hand) < row.tolerance
    assert (report.first_divergence, row.verdict) == ("embedding", "diverges")
    assert "ours is 1e-07, transformers' numbers fit 1e-12" in report.cause


@pytest.mark.parametrize(
    ("case", "wrong", "place", "cause"),
    [
        (BERT, ("self_attn.q", "self_attn.k"), "block 0", "self_attn.q and self_attn.k are swapped"),
        (GPT2, ("self_attn_norm", "ffn_norm"), "block 0", "self_attn_norm and ffn_norm are swapped"),
    ],
)
def test_rules_that_swap_names(case, wrong, place, cause):
    """The weights are then transformers' by those rules; the numbers say that they are not."""
    family = FAMILIES[case.family]
    names = dict([wrong, wrong[::-1]])

    def rules(config):
        return [swapped(rule, names) for rule in family.rules(config)]

    model = load_with(replace(family, rules=rules), case)
    report = mt.parity(model)
    assert (report.first_divergence, report.cause) == (place, cause)


def test_rules_that_forget_to_transpose():
    family = FAMILIES["gpt2"]

    def rules(config):
        return [
            replace(r, transpose=False) if "attn.c_proj" in getattr(r, "file", "") else r for r in family.rules(config)
        ]

    report = mt.parity(load_with(replace(family, rules=rules), GPT2))
    assert (report.first_divergence, report.cause) == ("block 0", "self_attn.o.weight is transposed")


def load_with(family, case):
    model = mt.load(checkpoint(case))
    transformer, report = load_checkpoint(checkpoint(case), family, model.raw_config, case.head)
    return mt.Pretrained(transformer, family=family, raw_config=model.raw_config, tokenizer=None, report=report)


def swapped(rule, names):
    """The same rule for the module that `names` puts in the place of its own."""
    for old, new in names.items():
        if isinstance(rule, Map) and f".{old}." in rule.ours:
            return replace(rule, ours=rule.ours.replace(f".{old}.", f".{new}."))
    return rule


def test_nan_after_another_fault():
    model = mt.load(checkpoint(GPT2))
    setting(f"{D}.0.ffn", activation="relu")(model.transformer)
    weight(f"{D}.1.ffn_norm.bias", lambda x: x * torch.nan)(model.transformer)
    assert [row.verdict for row in mt.parity(model).rows[:4]] == ["equal", "diverges", "diverges", "inherited"]


def test_only_the_guilty_weights_are_named():
    model = mt.load(checkpoint(BERT))
    for name in ("k", "v"):
        weight(f"{E}.1.self_attn.{name}.bias", torch.zeros_like)(model.transformer)
    report = mt.parity(model)
    assert report.cause == "self_attn.v.bias is missing: all zeros"
    assert any("self_attn.k.bias" in note for note in report.notes)


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_nan_is_a_divergence(side):
    folder = checkpoint(GPT2)
    model = mt.load(folder)
    broken = rewritten(
        folder, tensors=lambda x: {**x, "transformer.h.1.ln_2.bias": x["transformer.h.1.ln_2.bias"] * torch.nan}
    )
    if side == "ours":
        weight(f"{D}.1.ffn_norm.bias", lambda x: x * torch.nan)(model.transformer)
    report = mt.parity(model, reference=broken if side == "theirs" else None)
    assert report.first_divergence == "block 1"
    own = "transformers' own numbers are NaN or infinite here"
    assert report.cause == ("ffn_norm.bias holds NaN or infinity" if side == "ours" else own)
    assert "nan" in str(report)
    json.dumps(report.to_dict(), allow_nan=False)
