"""Saving: all of it or nothing, over whatever was there, from whatever state the model is in."""

import copy
import errno
import json

import pytest
import safetensors.torch
import torch
from oracle import Case, checkpoint, make_batch, rewritten, theirs
from safetensors.torch import load_file

import minitransformer as mt
from minitransformer import loading
from minitransformer.errors import MiniTransformerError, NotFoundError

CASE = Case("gpt2", "causal-lm")


def same_weights(folder, model):
    saved = mt.load(folder).transformer.state_dict()
    return all(torch.equal(x, saved[name]) for name, x in model.transformer.state_dict().items())


@pytest.fixture
def changed():
    """A model that differs from its file."""
    model = mt.load(checkpoint(CASE))
    with torch.no_grad():
        for x in model.parameters():
            x.mul_(1.1)
    return model


def fail_with(error):
    def fail(*args, **options):
        raise error

    return fail


FAILURES = {
    "disk full": (OSError(errno.ENOSPC, "No space left on device"), MiniTransformerError, "No space left on device"),
    "Ctrl-C": (KeyboardInterrupt(), KeyboardInterrupt, None),
}


@pytest.mark.parametrize("where", ["weights", "config"])
@pytest.mark.parametrize("what", FAILURES)
def test_an_interrupted_save_leaves_the_old(what, where, changed, tmp_path, monkeypatch):
    raised, expected, words = FAILURES[what]
    old = mt.load(checkpoint(CASE))
    old.save(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    with monkeypatch.context() as patch:
        if where == "weights":
            patch.setattr(safetensors.torch, "save_file", fail_with(raised))
        else:
            patch.setattr("minitransformer.checkpoint.save.write_json", fail_with(raised))
        for folder in ("model", "new"):
            with pytest.raises(expected, match=words):
                changed.save(tmp_path / folder)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    changed.save(tmp_path / "model")  # and the next one works
    assert same_weights(tmp_path / "model", changed)


def test_over_the_file_it_was_loaded_from(tmp_path):
    """The weights are the file's own memory; the new file must not be written into it."""
    folder = tmp_path / "model"
    mt.load(checkpoint(CASE)).save(folder)
    model, batch = mt.load(folder), make_batch(CASE, "right")
    before = model(**batch).logits
    model.save(folder)
    assert torch.equal(model(**batch).logits, before)
    assert torch.equal(mt.load(folder)(**batch).logits, before)
    assert same_weights(folder, model)


def test_other_files_stay(changed, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    changed.save(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert same_weights(tmp_path, changed)


def test_where_it_cannot_save(changed, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(MiniTransformerError, match="it is a file, expected a folder"):
        changed.save(tmp_path / "file")
    with pytest.raises(NotFoundError, match=r"there is no folder .*create it first"):
        changed.save(tmp_path / "no" / "folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_after_changes_transformers_reads_the_changed(changed, tmp_path):
    """Also where tied and split tensors, matrices the other way round, and a training mode are involved."""
    changed.train().save(tmp_path)
    batch = make_batch(CASE, "right")
    expected = theirs(CASE, tmp_path)(**batch).logits
    torch.testing.assert_close(changed.eval()(**batch).logits, expected, atol=1e-5, rtol=1e-5)


def test_in_another_dtype(tmp_path):
    model = mt.load(checkpoint(CASE))
    model.transformer.to(torch.bfloat16)
    model.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {x.dtype for x in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


def test_a_copy_of_a_model_is_a_model_of_its_own(tmp_path):
    model = mt.load(checkpoint(Case("bert", "masked-lm")))
    twin = copy.deepcopy(model.transformer)
    with torch.no_grad():
        twin.embed.tokens.weight.add_(1)
    model.save(tmp_path)
    original = load_file(checkpoint(Case("bert", "masked-lm")) / "model.safetensors")
    assert all(torch.equal(x, original[name]) for name, x in load_file(tmp_path / "model.safetensors").items())


def test_the_config_that_was_given_is_the_one_that_is_saved(tmp_path):
    folder = rewritten(checkpoint(CASE), config={"layer_norm_epsilon": None})
    mt.load(folder, config={"layer_norm_epsilon": 0.5}).save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["layer_norm_epsilon"] == 0.5
    assert loading.read_raw_config(folder).get("layer_norm_epsilon") is None
