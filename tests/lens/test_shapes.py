"""Shapes, parameters and FLOPs: those of the real model, and the well-known formulas."""

import json
import math

import pytest
import torch
from lens_models import PAIR, TARGET, TEXT, fresh, image, loaded
from oracle import PLAIN, _ours, make_batch
from torch.utils.flop_counter import FlopCounterMode

import minitransformer as mt
from minitransformer import lens
from minitransformer.config import vaswani2017
from minitransformer.errors import InputError
from minitransformer.lens.shapes import shapes, without_numbers


def sizes_of(batch):
    if "pixel_values" in batch:
        return {"batch": len(batch["pixel_values"])}
    decoder = {"target_tokens": batch["decoder_input_ids"].shape[1]} if "decoder_input_ids" in batch else {}
    return {"batch": len(batch["input_ids"]), "tokens": batch["input_ids"].shape[1], **decoder}


# Each family once; every head of every family in the longer form.
FEW = {case.family: case for case in PLAIN}.values()
CASES = [case if case in FEW else pytest.param(case, marks=pytest.mark.slow) for case in PLAIN]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal_to_what_torch_counts_in_a_real_pass(case):
    model = mt.build(_ours(case.family, case.head, case.variant)).eval()
    batch = make_batch(case, "none", (9, 9))
    if case.head in ("multiple-choice", "double-heads"):
        batch = {name: x.flatten(0, 1) for name, x in batch.items()}
    found = shapes(model, **sizes_of(batch))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.use("by_hand")(**batch)
    assert found.flops == counter.get_total_flops() > 0
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    unused = [part.name for part in found.parts if part.name == "other"]
    assert unused == ["other"] * (str(case) == "bart-causal-lm-plain")  # cross-attention that nothing goes through


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5", "bart", "vit", "albert"])
def test_sizes_are_those_of_the_real_tensors(kind):
    model = loaded(kind)
    given = image() if kind == "vit" else TEXT
    target = TARGET if kind in ("t5", "bart") else None
    found = {part.name: part for part in shapes(model, given, target=target).parts}
    _, cache = model.run_with_cache(given, target=target)
    seen = 0
    for name, part in found.items():
        stack, *path = name.split(".")
        point = {
            "q": "hook_q", "k": "hook_k", "v": "hook_v", "scores": "hook_attn_scores", "pattern": "hook_pattern",
            "z": "hook_z", "up": "hook_pre", "activation": "hook_post",
        }.get(path[-1])  # fmt: skip
        if stack in ("blocks", "encoder", "decoder") and point and not (path[-1] == "up" and kind == "llama"):
            module = {"self_attn": "attn", "cross_attn": "cross_attn", "ffn": "mlp"}[path[0]]
            real = cache[f"{stack}.0.{module}.{point}"]
            real = real.transpose(1, 2) if path[-1] in "qkvz" else real  # heads of a token side by side there
            assert part.sizes == tuple(real.shape), name
            times = sum(each.startswith(f"{stack}.") and each.endswith(f".{module}.{point}") for each in cache)
            assert part.times == times
            assert part.bytes == times * real.numel() * 4
            seen += 1
    assert seen >= (7 if kind == "llama" else 8)


def test_the_papers_own_model():
    """Closed formulas, for the base model of Vaswani et al. 2017 with 100 and 70 tokens."""
    config = vaswani2017(vocab_size=37000)
    with torch.device("meta"):
        model = mt.build(config, device="meta")
    found = shapes(model, batch=2, tokens=100, target_tokens=70)
    d, f, n, s, t = 512, 2048, 6, 100, 70
    encoder = n * (4 * 2 * s * d * d + 2 * 2 * s * s * d + 2 * 2 * s * d * f)
    own = 4 * 2 * t * d * d + 2 * 2 * t * t * d
    cross = 2 * 2 * t * d * d + 2 * 2 * s * d * d + 2 * 2 * t * s * d
    decoder = n * (own + cross + 2 * 2 * t * d * f)
    assert found.flops == 2 * (encoder + decoder + 2 * t * d * 37000)
    assert found.pattern_bytes == 4 * 2 * 8 * n * (s * s + t * t + t * s)
    assert found.residual_bytes == 4 * 2 * d * (n + 1) * (s + t)
    assert found.letters == {"B": 2, "T": 70, "S": 100, "V": 37000, "D": 512, "H": 8, "E": 64, "F": 2048}


def test_the_model_without_numbers_takes_no_memory_and_changes_nothing():
    model = fresh("bert").transformer
    before = {name: x.clone() for name, x in model.state_dict().items()}
    skeleton = without_numbers(model)
    assert all(x.device.type == "meta" for x in (*skeleton.parameters(), *skeleton.buffers()))
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert len(list(skeleton.parameters())) == len(list(model.parameters()))  # tied ones stay tied


def test_half_precision_takes_half_the_memory():
    model = fresh("gpt2")
    whole, half = shapes(model, TEXT), shapes(model.transformer.half(), tokens=20)
    assert half.pattern_bytes * 2 == whole.pattern_bytes
    assert [part.bytes * 2 for part in half.parts] == [part.bytes for part in whole.parts]


def test_a_shared_layer_counts_once_but_computes_often():
    plain, one = loaded("albert").transformer, shapes(loaded("albert"), TEXT)
    (q,) = [part for part in one.parts if part.name == "blocks.self_attn.q"]
    layers = plain.config.encoder
    assert q.times == len(layers.order) > layers.layers
    assert {part.times for part in one.parts if part.name.startswith("blocks.")} == {q.times}
    assert q.parameters == layers.layers * (layers.d_model**2 + layers.d_model)
    assert q.flops == 2 * q.times * q.sizes[2] * layers.d_model**2


def test_a_pair_and_a_batch():
    one, two = shapes(loaded("bert"), TEXT, PAIR), shapes(loaded("bert"), TEXT, PAIR, batch=2)
    assert (two.letters["B"], two.letters["T"]) == (2, one.letters["T"])
    assert two.flops == 2 * one.flops
    assert one.letters["T"] == len(loaded("bert").read(TEXT, PAIR).tokens)


def test_without_any_size():
    assert shapes(loaded("t5")).letters["T"] == shapes(loaded("t5")).letters["S"] == 128
    assert shapes(loaded("bert")).letters["T"] == loaded("bert").max_length
    assert math.prod(shapes(loaded("vit")).parts[0].sizes) == 9 * 20


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("bert", {"tokens": 67}, "tokens: got 67, and the model takes 66"),
        ("bert", {"tokens": 0}, "tokens: got 0, expected a whole number"),
        ("bert", {"batch": True}, "batch: got True"),
        ("bert", {"target_tokens": 3}, "target_tokens: this model has one stack"),
        ("bert", {"text": TEXT, "tokens": 3}, "tokens: got a text as well"),
        ("bert", {"text": ""}, "text: got ''"),
        ("vit", {"tokens": 3}, "tokens: this model reads images"),
        ("bart", {"target_tokens": 1000}, "target_tokens: got 1000"),
    ],
)
def test_bad_input(kind, options, message):
    with pytest.raises(InputError, match=message):
        shapes(loaded(kind), **options)


def test_a_text_needs_a_tokenizer():
    with pytest.raises(InputError, match="text: got one, and this model has no tokenizer"):
        shapes(loaded("bert").transformer, TEXT)


def test_what_is_shown(tmp_path):
    found = lens.shapes(loaded("bart"), TEXT, target=TARGET)
    read = json.loads(found.save(tmp_path / "a.json").read_text())
    assert read["flops"] == read["rows"][-1]["FLOPs"] == sum(row["FLOPs"] for row in read["rows"][:-1])
    assert read["parameters"] == sum(parameter.numel() for parameter in loaded("bart").parameters())
    assert "decoder.cross_attn.q" in found.save(tmp_path / "a.svg").read_text()
    assert "[B H T S]" in str(found)
    assert found.tabs()[0].table == found.table()
