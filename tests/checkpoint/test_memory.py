"""Loading makes no second copy: parameters are the mapped file. And nothing done to them reaches the file."""

import hashlib
import os
import subprocess
import sys

import pytest
import torch
import transformers
from oracle import Case, checkpoint, make_batch, make_targets, rewritten

import minitransformer as mt
from minitransformer import storage

BERT, GPT2 = Case("bert", "masked-lm"), Case("gpt2", "causal-lm")
LOADING = """
import re, sys
import torch
import minitransformer as mt

def kilobytes(field):
    with open("/proc/self/status") as status:
        return int(re.search(rf"{field}:\\s+(\\d+)", status.read())[1])

mt.load(sys.argv[2])  # whatever loading imports is in memory from here on
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = kilobytes("VmRSS")
model = mt.load(sys.argv[1])
print(kilobytes("VmHWM") - before)
"""


def sha256(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def read_tensors(monkeypatch):
    """Each tensor that the loader reads, as it comes from storage."""
    original, tensors = storage.weights._mapped_reader, []

    def remembering(infos, stack):
        read = original(infos, stack)
        return lambda name: tensors.append(read(name)) or tensors[-1]

    monkeypatch.setattr(storage.weights, "_mapped_reader", remembering)
    return tensors


@pytest.mark.parametrize("case", [BERT, GPT2], ids=str)
def test_parameters_are_the_file(case, read_tensors):
    """Transposed or split, each parameter shares its memory with a tensor of the file; the rest is in no memory."""
    model = mt.load(checkpoint(case))
    storages = {x.untyped_storage().data_ptr() for x in read_tensors}
    assert all(x.untyped_storage().data_ptr() in storages for x in model.parameters())
    stack = model.transformer.encoder or model.transformer.decoder
    q, k = stack.layers[0].self_attn.q.weight, stack.layers[0].self_attn.k.weight
    in_one_matrix = q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
    assert in_one_matrix == (case == GPT2)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory is read from /proc")
def test_peak_of_memory():
    """Under 1.1 times the file at the peak."""
    sizes = {"vocab_size": 20_000, "n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 64}
    with torch.device("meta"):
        large = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).state_dict()
    del large["lm_head.weight"]
    folder = rewritten(checkpoint(GPT2), lambda old: {name: torch.ones(x.shape) for name, x in large.items()}, sizes)
    size = (folder / "model.safetensors").stat().st_size / 1024
    run = subprocess.run(
        [sys.executable, "-c", LOADING, folder, checkpoint(GPT2)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    peak = int(run.stdout)
    assert size > 50_000
    assert peak < 1.1 * size, f"{peak} kB for a file of {size:.0f} kB"


def train(model, batch, steps=4):
    """A few steps in place. Returns the losses."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("case", [BERT, GPT2], ids=str)
def test_training_does_not_write_to_the_file(case, tmp_path):
    """Mapped weights learn as copies of them do, and the file stays as it was."""
    folder = rewritten(checkpoint(case))
    before = sha256(folder)
    mapped, copied = mt.load(folder), mt.load(folder)
    for x in copied.parameters():
        x.data = x.data.clone(memory_format=torch.contiguous_format)
    batch = make_batch(case, "right")
    batch |= make_targets(case, batch)
    losses = train(mapped, batch)
    assert losses[-1] < 0.9 * losses[0]
    torch.testing.assert_close(train(copied, batch), losses, atol=1e-5, rtol=1e-5)
    assert sha256(folder) == before
    assert train(mt.load(folder), batch, steps=1) == pytest.approx(losses[:1])
    mapped.save(tmp_path)
    saved = mt.load(tmp_path).transformer.state_dict()
    assert all(torch.equal(x, saved[name]) for name, x in mapped.transformer.state_dict().items())


def test_two_models_of_one_file_are_two():
    first, second = mt.load(checkpoint(GPT2)), mt.load(checkpoint(GPT2))
    with torch.no_grad():
        first.transformer.embed.tokens.weight.zero_()
    assert second.transformer.embed.tokens.weight.abs().max() > 0.1


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_the_model_outlives_its_file(how):
    folder, batch = rewritten(checkpoint(GPT2)), make_batch(GPT2, "right")
    model, expected = mt.load(folder, check_finite=False), mt.load(checkpoint(GPT2))(**batch).logits
    if how == "deleted":
        (folder / "model.safetensors").unlink()
    else:
        other = rewritten(checkpoint(GPT2), lambda old: {name: torch.zeros_like(x) for name, x in old.items()})
        os.replace(other / "model.safetensors", folder / "model.safetensors")
        assert mt.load(folder)(**batch).logits.abs().max() == 0
    assert torch.equal(model(**batch).logits, expected)


def test_no_random_values_are_drawn():
    """What the file gives is not first drawn and then thrown away: the generator stands where it stood."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    mt.load(checkpoint(BERT))
    assert torch.equal(torch.get_rng_state(), before)
    mt.load(checkpoint(BERT), head="token-classification")
    assert not torch.equal(torch.get_rng_state(), before)
