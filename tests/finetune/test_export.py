"""What is exported answers as transformers does, for batches and lengths other than those it was traced with."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch
from oracle import Case, checkpoint, theirs
from typer.testing import CliRunner

import minitransformer as mt
from minitransformer.cli import app
from minitransformer.errors import CorruptFileError, DependencyError, InputError, NotFoundError
from minitransformer.finetune.ship import export as module
from minitransformer.finetune.ship.export import export
from minitransformer.finetune.ship.trace import input_names, sample

slow = pytest.mark.slow
CASES = [
    ("bert", "sequence-classification"),
    ("gpt2", "causal-lm"),
    *(
        pytest.param(*case, marks=slow)
        for case in [
            ("bert", "token-classification"),
            ("bert", "multiple-choice"),
            ("roberta", "question-answering"),
            ("distilbert", "masked-lm"),
            ("albert", "sequence-classification"),
            ("gpt2", "sequence-classification"),
            ("t5", "seq2seq-lm"),
            ("bart", "seq2seq-lm"),
            ("bart", "sequence-classification"),
            ("vit", "image-classification"),
        ]
    ),
]


@pytest.mark.parametrize(("family", "head"), CASES)
def test_onnx_answers_as_transformers(family, head, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    case = Case(family, head)
    found = export(checkpoint(case), tmp_path / "model.onnx")
    assert found.max_difference < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert tuple(each.name for each in session.get_inputs()) == found.inputs
    model, config = theirs(case).eval(), mt.load(checkpoint(case)).transformer.config
    for shape in ((1, 1), (4, 3), (3, 13)):
        batch = sample(config, *shape, generator=torch.Generator().manual_seed(5))
        if family == "bart" and head == "sequence-classification":
            batch["input_ids"][batch["input_ids"] == 2] = 3  # transformers wants as many ends in each text: one
            batch["input_ids"][..., 0] = 2
        answers = session.run(list(found.outputs), {name: x.numpy() for name, x in batch.items()})
        with torch.no_grad():
            expected = model(**batch)
        real = batch["attention_mask"].numpy() == 1 if "attention_mask" in batch else None
        for name, x in zip(found.outputs, answers, strict=True):
            wanted = expected[name].numpy()
            assert x.shape == wanted.shape
            if real is not None and "decoder_input_ids" not in batch and x.shape[: real.ndim] == real.shape:
                x, wanted = x[real], wanted[real]
            np.testing.assert_allclose(x, wanted, atol=1e-5, rtol=1e-5)


@slow
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_torchs_program_is_read_back_without_this_package(family, tmp_path):
    case = Case(family, "seq2seq-lm" if family == "t5" else "question-answering")
    found = export(checkpoint(case), tmp_path / "model.pt2", to="torch")
    assert found.max_difference < 1e-5
    batch = sample(mt.load(checkpoint(case)).transformer.config, 2, 9, generator=torch.Generator().manual_seed(5))
    with warnings.catch_warnings(action="ignore"):
        program = torch.export.load(tmp_path / "model.pt2").module()
    with torch.no_grad():
        answers, expected = program(*batch.values()), theirs(case).eval()(**batch)
    real = batch.get("decoder_input_ids", batch["attention_mask"]) >= (0 if family == "t5" else 1)
    for name, x in zip(found.outputs, answers, strict=True):
        assert torch.allclose(x[real], expected[name][real], atol=1e-5, rtol=1e-5)


def test_a_plain_folder(tmp_path):
    case = Case("distilbert", "token-classification")
    command = ["export", str(checkpoint(case)), "--to", "safetensors", "-o", str(tmp_path / "plain"), "--json"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert json.loads(done.stdout) == {
        "path": str(tmp_path / "plain"),
        "inputs": ["input_ids", "attention_mask"],
        "outputs": ["logits"],
        "max_difference": 0.0,
    }
    batch = sample(mt.load(checkpoint(case)).transformer.config, 2, 9)
    with torch.no_grad():
        again, before = (theirs(case, folder).eval()(**batch).logits for folder in (tmp_path / "plain", None))
    assert torch.equal(again, before)


@pytest.mark.parametrize("to", ["onnx", "safetensors"])
def test_a_file_that_answers_otherwise_is_not_left_behind(to, tmp_path, monkeypatch):
    """The writer writes nonsense; what stood there before stays."""
    old = tmp_path / "model"
    if to == "onnx":
        old.write_bytes(b"the old one")

        def nonsense(model, path):
            path.write_bytes(b"nonsense")
            return lambda batch: {"logits": torch.ones(len(batch["input_ids"]), 3)}

        monkeypatch.setattr(module, "_write_onnx", nonsense)
    else:
        monkeypatch.setattr(
            module, "_folder", lambda *_: lambda batch: {"logits": torch.full((len(batch["input_ids"]), 3), torch.nan)}
        )
    with pytest.raises(CorruptFileError, match="not written: logits differ"):
        export(checkpoint(Case("bert", "sequence-classification")), old, to=to)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == (
        [("model", b"the old one")] if to == "onnx" else []
    )


def test_what_is_wrong_is_said_before_the_work(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="to: got 'tflite', expected one of onnx, torch, safetensors"):
        export("no-such-model", tmp_path / "x", to="tflite")
    with pytest.raises(NotFoundError, match="no folder"):
        export("no-such-model", tmp_path / "none" / "x.onnx")
    with pytest.raises(InputError, match="expected the name of a file"):
        export("no-such-model", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(DependencyError, match=r"minitransformer\[export\]"):
        export("no-such-model", tmp_path / "x.onnx")


def test_inputs_are_those_of_transformers_exports():
    config = mt.load(checkpoint(Case("bert", "masked-lm"))).transformer.config
    assert input_names(config) == ("input_ids", "attention_mask", "token_type_ids")
    one_type = dataclasses.replace(config.embed, type_vocab_size=1)
    assert input_names(dataclasses.replace(config, embed=one_type)) == ("input_ids", "attention_mask")


@slow
def test_large_weights_stand_beside_the_file(tmp_path, monkeypatch):
    runtime = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(module, "ONE_FILE", 1000)
    export(checkpoint(Case("bert", "masked-lm")), tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    runtime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
