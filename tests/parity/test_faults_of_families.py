"""Faults that BERT and GPT-2 cannot have: parity names the stack, the block and the cause."""

from dataclasses import dataclass, replace

import pytest
import torch
from oracle import Case, checkpoint, rewritten
from torch import nn

import minitransformer as mt
from minitransformer.modules import LayerNorm, RMSNorm
from minitransformer.ops import BOOKS

BERT, GPT2 = Case("bert", "base"), Case("gpt2", "base")
T5, GATED_T5 = Case("t5", "seq2seq-lm"), Case("t5", "base", "odd")
BART, SCALED_BART = Case("bart", "seq2seq-lm"), Case("bart", "base", "odd")
LLAMA, QWEN3, WINDOW = Case("llama", "base"), Case("qwen3", "base"), Case("mistral", "base", "window")
MARIAN, ROBERTA = Case("marian", "base"), Case("roberta", "base")
ALBERT, WIDE_ALBERT = Case("albert", "base"), Case("albert", "base", "same-width")
VIT = Case("vit", "base")
E, D = "encoder.layers", "decoder.layers"


@dataclass
class Fault:
    """What is done to which model, where it has to be found, and what has to be said."""

    name: str
    case: Case
    plant: object
    place: str
    cause: str


def setting(path, **values):
    def plant(model):
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return plant


def configured(path, **values):
    """Other fields in the config of the module at `path`."""

    def plant(model):
        module = model.get_submodule(path)
        module.config = replace(module.config, **values)

    return plant


def weight(path, change):
    def plant(model):
        x = model.get_parameter(path)
        x.data = change(x.data)

    return plant


def norm(path, kind):
    """A norm of another kind with the same weight."""

    def plant(model):
        parent, _, name = path.rpartition(".")
        there = model.get_submodule(path)
        other = kind(len(there.weight), there.eps)
        other.weight = there.weight
        setattr(model.get_submodule(parent), name, other)

    return plant


def norms_of_a_block(path, kind):
    def plant(model):
        norm(f"{path}.self_attn_norm", kind)(model)
        norm(f"{path}.ffn_norm", kind)(model)

    return plant


def swap(path, first, second):
    def plant(model):
        parent = model.get_submodule(path)
        one, other = parent.get_submodule(first), parent.get_submodule(second)
        setattr(parent, first, other)
        setattr(parent, second, one)

    return plant


def a_table_for_the_decoder(model):
    """Where encoder and decoder should share one, the decoder gets another."""
    model.target_embed.tokens = nn.Embedding.from_pretrained(model.embed.tokens.weight.roll(1, dims=0))


def attention_in_tiles(q, k, v, **options):
    """Head h of the queries reads head h % G of the keys."""
    times = q.shape[1] // k.shape[1]
    return BOOKS["by_hand"].attention(q, k.repeat(1, times, 1, 1), v.repeat(1, times, 1, 1), **options)


TILED = replace(BOOKS["fused"], attention=attention_in_tiles)

FAULTS = [
    Fault(
        "LayerNorm for RMSNorm",
        T5,
        norm(f"{E}.1.ffn_norm", LayerNorm),
        "encoder block 1",
        "the kind of ffn_norm: ours is LayerNorm, transformers' numbers fit RMSNorm",
    ),
    Fault(
        "RMSNorm for LayerNorm",
        BERT,
        norm(f"{E}.0.ffn_norm", RMSNorm),
        "block 0",
        "the kind of ffn_norm: ours is RMSNorm, transformers' numbers fit LayerNorm",
    ),
    Fault(
        "LayerNorms for RMSNorms",
        LLAMA,
        norms_of_a_block(f"{D}.1", LayerNorm),
        "block 1",
        "the kind of self_attn_norm and ffn_norm: ours is LayerNorm",
    ),
    Fault(
        "a final RMSNorm",
        GPT2,
        norm("decoder.final_norm", RMSNorm),
        "final norm",
        "the kind of final_norm: ours is RMSNorm",
    ),
    Fault("eps of an RMSNorm", T5, setting("encoder.final_norm", eps=1e-5), "encoder final norm", "numbers fit 1e-06"),
    Fault("no final RMSNorm", T5, setting("decoder", final_norm=None), "decoder final norm", "final_norm is missing"),
    Fault(
        "gate and up swapped",
        LLAMA,
        swap(f"{D}.1.ffn", "gate", "up"),
        "block 1",
        "ffn.gate.weight and ffn.up.weight are swapped",
    ),
    Fault(
        "gate and up swapped",
        GATED_T5,
        swap(f"{D}.0.ffn", "gate", "up"),
        "decoder block 0",
        "ffn.gate.weight and ffn.up.weight are swapped",
    ),
    Fault("no gate", LLAMA, setting(f"{D}.0.ffn", gate=None), "block 0", "ffn.gate is missing"),
    Fault(
        "no relative bias",
        T5,
        setting("encoder", relative_bias=None),
        "encoder relative bias",
        "the relative bias is missing",
    ),
    Fault(
        "relative bias of both directions",
        T5,
        setting("decoder.relative_bias", bidirectional=True),
        "decoder relative bias",
        "transformers' numbers fit one direction",
    ),
    Fault(
        "relative bias of one direction",
        T5,
        setting("encoder.relative_bias", bidirectional=False),
        "encoder relative bias",
        "transformers' numbers fit both directions",
    ),
    Fault(
        "max_distance",
        T5,
        lambda m: setting(
            "encoder.relative_bias", config=replace(m.encoder.config.relative_positions, max_distance=99)
        )(m),
        "encoder relative bias",
        "ours has 99 as max_distance",
    ),
    Fault(
        "rotary base",
        LLAMA,
        configured("decoder", rotary_theta=5e5),
        "rotary positions",
        "the base of the rotary positions: ours is 500000, transformers' numbers fit 10000",
    ),
    Fault(
        "rotary base of no known model",
        Case("llama", "base", "odd"),
        configured("decoder", rotary_theta=1e4),
        "rotary positions",
        "transformers' numbers fit 300",
    ),
    Fault(
        "no rotary positions",
        QWEN3,
        configured("decoder", rotary_theta=None),
        "rotary positions",
        "the base of the rotary positions: they are missing, transformers' numbers fit 10000",
    ),
    Fault(
        "groups of heads",
        LLAMA,
        setting(f"{D}.0.self_attn", book=TILED),
        "block 0",
        "the groups of self_attn: in transformers' numbers, head h of the queries reads h // 2 of the keys",
    ),
    Fault(
        "no norm of queries",
        QWEN3,
        setting(f"{D}.1.self_attn", q_norm=None),
        "block 1",
        "self_attn.q_norm is missing",
    ),
    Fault(
        "window",
        WINDOW,
        configured("decoder", window=None),
        "block 0",
        "causal attention with padding in a window of 3",
    ),
    Fault("window off by one", WINDOW, configured("decoder", window=4), "block 0", "in a window of 3"),
    Fault(
        "offset of positions",
        BART,
        configured("target_embed", position_offset=0),
        "decoder embedding",
        "positions are off by two: transformers' are ours +2",
    ),
    Fault(
        "offset of positions that skip padding",
        ROBERTA,
        configured("embed", position_offset=1),
        "embedding",
        "positions are off by one: transformers' are ours +1",
    ),
    Fault(
        "positions not added",
        BART,
        lambda m: setting("embed", add_positions=lambda x, *_: x)(m),
        "encoder embedding",
        "positions are dropped",
    ),
    Fault(
        "sinusoids not added",
        MARIAN,
        lambda m: setting("embed", add_positions=lambda x, *_: x)(m),
        "encoder embedding",
        "positions are dropped",
    ),
    Fault(
        "sinusoids side by side",
        MARIAN,
        setting("embed.positions", formula="sinusoidal"),
        "encoder embedding",
        "the formula of positions: ours is sinusoidal, transformers' numbers fit sinusoidal_halves",
    ),
    Fault(
        "tokens not scaled",
        SCALED_BART,
        configured("embed", scale=1.0),
        "encoder embedding",
        "the scale of the tokens: ours is 1, transformers' numbers fit √D",
    ),
    Fault(
        "tokens scaled",
        BART,
        configured("target_embed", scale=18**0.5),
        "decoder embedding",
        "the scale of the tokens: ours is 4.243, transformers' numbers fit 1",
    ),
    Fault(
        "head not scaled",
        T5,
        setting("head.lm", scale=1.0),
        "head: logits",
        "the scale of lm: ours is 1, transformers' numbers fit 1/√D",
    ),
    Fault("scores scaled", T5, setting(f"{D}.1.cross_attn", scale=5**-0.5), "decoder block 1", "numbers fit 1"),
    Fault("no projection", WIDE_ALBERT, setting("embed", proj=None), "embedding", "proj is missing"),
    Fault(
        "weights of a shared layer",
        ALBERT,
        weight(f"{E}.0.ffn.down.bias", torch.neg),
        "block 0",
        "ffn.down.bias has the wrong sign",
    ),
    Fault(
        "keys and values of cross-attention swapped",
        BART,
        swap(f"{D}.1.cross_attn", "k", "v"),
        "decoder block 1",
        "cross_attn.k.weight and cross_attn.v.weight are swapped",
    ),
    Fault("no class token", VIT, weight("embed.class_token", torch.zeros_like), "embedding", "class_token is missing"),
    Fault(
        "patches off",
        VIT,
        weight("embed.patches.weight", lambda x: x.flip(0)),
        "embedding",
        "patches.weight has 960 of",
    ),
    Fault(
        "fixed bias of the head",
        BART,
        lambda m: m.head.lm.bias.add_(1),
        "head: logits",
        "lm.bias has 43 of 43 numbers unlike transformers'",
    ),
    Fault(
        "a table that is not shared",
        BART,
        a_table_for_the_decoder,
        "decoder embedding",
        "tokens.weight has its rows off by one",
    ),
    Fault(
        "a word of the table that encoder and decoder share",
        BART,
        weight("embed.tokens.weight", lambda x: torch.cat((x[:-1], x[-1:] + 1))),
        "encoder embedding",
        "tokens.weight has 18 of 774 numbers unlike",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.name}-{fault.case.family}")
def test_fault_is_found_and_named(fault):
    model = mt.load(checkpoint(fault.case))
    with torch.no_grad():
        fault.plant(model.transformer)
    report = mt.parity(model)
    assert not report.equal
    assert (report.first_divergence, fault.cause in report.cause) == (fault.place, True), str(report)


@pytest.mark.parametrize(
    ("case", "tensor", "place", "cause"),
    [
        (BART, "model.encoder.layers.2.fc1.bias", "encoder block 2", "ffn.up.bias has 23 of 23"),
        (BART, "model.decoder.layers.0.encoder_attn.v_proj.bias", "decoder block 0", "cross_attn.v.bias has 18 of 18"),
        (T5, "decoder.block.1.layer.1.layer_norm.weight", "decoder block 1", "cross_attn_norm.weight has 18 of 18"),
        (T5, "encoder.final_layer_norm.weight", "encoder final norm", "weight has 18 of 18"),
        (MARIAN, "encoder.layers.1.self_attn.out_proj.weight", "encoder block 1", "self_attn.o.weight has 324 of 324"),
        (VIT, "encoder.layer.1.output.dense.bias", "block 1", "ffn.down.bias has 20 of 20"),
    ],
)
def test_wrong_weights_are_located(case, tensor, place, cause):
    other = rewritten(checkpoint(case), tensors=lambda tensors: {**tensors, tensor: tensors[tensor] * 2})
    report = mt.parity(checkpoint(case), reference=other)
    assert (report.first_divergence, cause in report.cause) == (place, True), str(report)
    verdicts = [row.verdict for row in report.rows]
    assert verdicts.count("diverges") == 1
    assert "equal" in verdicts[: verdicts.index("diverges")]


def test_fault_of_an_encoder_is_inherited_by_the_decoder():
    model = mt.load(checkpoint(T5))
    setting(f"{E}.2.ffn", activation="tanh")(model.transformer)
    verdicts = {row.place: row.verdict for row in mt.parity(model).rows}
    for place, verdict in verdicts.items():
        before = place.startswith("encoder") and place not in ("encoder block 2", "encoder final norm")
        tables = place in ("decoder embedding", "decoder relative bias")
        assert verdict == ("diverges" if place == "encoder block 2" else "equal" if before or tables else "inherited")


def test_decoder_that_starts_elsewhere():
    """Its parts are right; what the model hands to them is not."""
    model = mt.load(checkpoint(Case("bart", "sequence-classification")))
    model.transformer.forward = with_start(model.transformer, 7)
    report = mt.parity(model)
    assert report.first_divergence == "decoder embedding"
    assert "the way the model puts its parts together" in report.cause


def with_start(model, start):
    forward = model.forward

    def changed(input_ids, attention_mask):
        ids = torch.cat((torch.full_like(input_ids[:, :1], start), input_ids[:, :-1]), dim=1)
        return forward(input_ids, attention_mask, decoder_input_ids=ids)

    return changed


def test_shared_layers_have_a_row_for_each_turn():
    model = mt.load(checkpoint(ALBERT))
    assert isinstance(model.transformer.encoder.layers[0], nn.Module)
    setting(f"{E}.0.ffn", activation="relu")(model.transformer)
    verdicts = [row.verdict for row in mt.parity(model).rows]
    assert verdicts == ["equal", "diverges", "diverges", "diverges", "inherited"]
