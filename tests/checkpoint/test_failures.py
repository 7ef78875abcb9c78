"""What can be wrong with a checkpoint: an exception of ours that names the thing and the way out, before any harm."""

import json
import os
import re

import pytest
import torch
from oracle import Case, checkpoint, make_batch, rewritten, theirs
from safetensors.torch import load_file

import minitransformer as mt
from minitransformer import storage
from minitransformer.errors import (
    ConfigError,
    CorruptFileError,
    MismatchError,
    NotFoundError,
    UnsafeFileError,
)

BERT, GPT2 = Case("bert", "sequence-classification"), Case("gpt2", "causal-lm")
WORD, POSITION = "bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.fixture
def nothing_read(monkeypatch):
    """No tensor's numbers are read in this test, only headers."""

    def refusing_reader(infos, stack):
        return lambda name: pytest.fail(f"{name} was read")

    monkeypatch.setattr(storage.weights, "_mapped_reader", refusing_reader)


def without(*names):
    return lambda old: {name: x for name, x in old.items() if not any(re.search(part, name) for part in names)}


def plus(**tensors):
    return lambda old: {**old, **{name.replace("__", "."): x for name, x in tensors.items()}}


TENSORS = {
    "one missing": (
        without("layer.1.attention.self.key.weight"),
        r"missing 1: bert.encoder.layer.1.attention.self.key.weight \(here encoder.layers.1.self_attn.k.weight\)",
    ),
    "many missing": (without("query", "key", "value"), r"missing 12: .*\(here .*\).* and 2 more"),
    "unexpected": (
        plus(bert__adapter=torch.ones(2), bert__lora=torch.ones(3)),
        r"unexpected 2: bert.adapter; bert.lora(.|\n)*strict=False",
    ),
    "missing and unexpected and another shape, all told": (
        lambda old: {**without("pooler.dense.bias")(old), "new": torch.ones(1), POSITION: torch.ones(20, 21)},
        r"missing 1: bert.pooler.dense.bias(.|\n)*unexpected 1: new\n(.|\n)*shape of bert.embeddings.position",
    ),
    "shape": (
        lambda old: {**old, WORD: torch.ones(54, 21)},
        r"shape of bert.embeddings.word_embeddings.weight: \[54, 21\] in the file, \[53, 21\] by the config "
        r"\(53 is vocab_size, 21 is hidden_size\)",
    ),
    "transposed": (
        lambda old: {name: x.T.contiguous() if "output.dense.weight" in name else x for name, x in old.items()},
        r"layer.0.output.dense.weight: \[37, 21\] in the file, \[21, 37\] by the config .*37 is intermediate_size",
    ),
    "whole numbers": (
        lambda old: {**old, WORD: old[WORD].to(torch.int8)},
        r"word_embeddings.weight: I8 in the file, expected one of F64, F32, F16, BF16; quantised",
    ),
    "nothing of it": (lambda old: {"w": torch.ones(1)}, r"config says 2 layers, the file has 1 tensors in all"),
    "another model": (
        lambda old: load_file(checkpoint(GPT2) / "model.safetensors"),
        r"missing 41(.|\n)*the names in the file look like gpt2: 40 of 40 match",
    ),
    "one layer too few": (without(r"layer\.1\."), r"missing 16(.|\n)*the config says 2 layers, the file has 1"),
}


@pytest.mark.usefixtures("nothing_read")
@pytest.mark.parametrize("what", TENSORS)
def test_tensors_that_do_not_fit(what):
    change, words = TENSORS[what]
    folder = rewritten(checkpoint(BERT), change)
    with pytest.raises(MismatchError, match=words) as raised:
        mt.load(folder)
    assert str(folder) in str(raised.value) or what == "whole numbers"


@pytest.mark.usefixtures("nothing_read")
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"vocab_size": 60}, r"\[53, 21\] in the file, \[60, 21\] by the config \(60 is vocab_size"),
        ({"max_position_embeddings": 512}, r"position_embeddings.weight: \[19, 21\].*512 is max_position_embeddings"),
        (
            {"intermediate_size": 40},
            r"intermediate.dense.weight: \[37, 21\] in the file, \[40, 21\].*intermediate_size",
        ),
        ({"num_hidden_layers": 3}, r"the config says 3 layers, the file has 2"),
        ({"num_hidden_layers": 1}, r"unexpected 16(.|\n)*the config says 1 layers, the file has 2"),
        ({"num_hidden_layers": 10**8}, r"the config says 100000000 layers, the file has 41 tensors"),
        ({"id2label": {"0": "no", "1": "yes"}}, r"\[3, 21\] in .*\[2, 21\] by .*2 is .*num_labels(.|\n)*new_head=True"),
        (
            {"model_type": "gpt2", "n_embd": 21, "n_layer": 2, "n_head": 3, "n_positions": 19},
            r"look like bert: \d+ of 41",
        ),
    ],
    ids=lambda x: "" if isinstance(x, str) else next(iter(x)),
)
def test_configs_of_another_size(config, words):
    with pytest.raises(MismatchError, match=words):
        mt.load(checkpoint(BERT), config=config, head="sequence-classification")


def test_unexpected_can_be_let_pass():
    folder = rewritten(checkpoint(BERT), plus(adapter=torch.ones(2)))
    with pytest.warns(UserWarning, match="unexpected 1: adapter"):
        model = mt.load(folder, strict=False)
    assert model.report.ignored == {"adapter": "unexpected"}
    with pytest.raises(MismatchError, match="missing 1"):  # this cannot
        mt.load(rewritten(checkpoint(BERT), without("pooler.dense.bias")), strict=False)


@pytest.mark.parametrize(("value", "count"), [(float("nan"), 1), (float("inf"), 2), (-float("inf"), 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_that_are_none(value, count, dtype):
    def change(old):
        old = {name: x.to(dtype) for name, x in old.items()}
        old["transformer.h.1.mlp.c_fc.weight"].view(-1)[3 : 3 + count] = value
        return old

    folder = rewritten(checkpoint(GPT2), change)
    with pytest.raises(MismatchError, match=rf"h.1.mlp.c_fc.weight: {count} of 900 .*check_finite=False"):
        mt.load(folder)
    assert not mt.load(folder, check_finite=False).transformer.decoder.layers[1].ffn.up.weight.isfinite().all()


def test_large_numbers_are_numbers():
    """Their sum is infinite; none of them is."""
    folder = rewritten(checkpoint(GPT2), lambda old: {name: torch.full_like(x, 3e38) for name, x in old.items()})
    assert mt.load(folder, check_finite=True).report.used


def edited_header(old, new):
    """Text of the header replaced by text of the same length."""

    def change(folder):
        data = (folder / "model.safetensors").read_bytes()
        assert data.count(old) == 1
        assert len(old) == len(new)
        (folder / "model.safetensors").write_bytes(data.replace(old, new))

    return change


def cut(folder):
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 10)


def lengthened(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data + b"x")


def sharded(shard, tensor=WORD):
    def change(folder):
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        names = dict.fromkeys(load_file(folder / "part.safetensors"), "part.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {**names, tensor: shard}}))

    return change


def writes(file, text):
    return lambda folder: (folder / file).write_text(text)


def only_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def unlinks(file):
    return lambda folder: (folder / file).unlink()


KEY0, KEY1 = (f"bert.encoder.layer.{i}.attention.self.key.bias".encode() for i in (0, 1))
FILES = {
    "no config": (unlinks("config.json"), NotFoundError, r"no config.json in .*which holds model.safetensors.*config="),
    "config not JSON": (writes("config.json", '{"a": 1,\n "b" 2}'), ConfigError, r"config.json.*line 2, column 6"),
    "config a list": (writes("config.json", "[1]"), ConfigError, r"config.json: .*object is expected, got list"),
    "config a pointer": (writes("config.json", LFS), ConfigError, r"config.json is a Git-LFS pointer.*git lfs pull"),
    "weights a pointer": (writes("model.safetensors", LFS), CorruptFileError, r"Git-LFS pointer.*git lfs pull"),
    "cut": (cut, CorruptFileError, r"truncated: tensor .* ends at byte .*download it again"),
    "longer": (lengthened, CorruptFileError, r"1 bytes follow"),
    "a name twice": (edited_header(KEY1, KEY0), CorruptFileError, r"layer.0.attention.self.key.bias' is given twice"),
    "no weights": (unlinks("model.safetensors"), NotFoundError, r"no model.safetensors .*it holds config.json"),
    "only a pickle": (only_pickle, UnsafeFileError, r"pytorch_model.bin only.*was not opened.*allow_pickle=True"),
    "a way out of the folder": (sharded("../../etc/x.safetensors"), UnsafeFileError, r"\.\./\.\./etc/x.*nothing was"),
    "a missing shard": (sharded("part-2.safetensors"), NotFoundError, rf"no part-2.safetensors .*{WORD}"),
    "a tensor in no shard": (sharded("part.safetensors", "w"), CorruptFileError, r"'w' should be in .*no shard holds"),
}  # fmt: skip


@pytest.mark.usefixtures("nothing_read")
@pytest.mark.parametrize("what", FILES)
def test_files_that_are_damaged(what):
    change, error, words = FILES[what]
    folder = rewritten(checkpoint(BERT))
    change(folder)
    with pytest.raises(error, match=words):
        mt.load(folder)


@pytest.mark.parametrize("case", [BERT, GPT2, Case("bert", "masked-lm")], ids=str)
def test_a_pickle_on_request(case):
    """As older transformers wrote it: tied tensors under all their names."""
    folder = rewritten(checkpoint(case))
    torch.save(theirs(case).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    model, expected, batch = mt.load(folder, allow_pickle=True), mt.load(checkpoint(case)), make_batch(case, "right")
    assert torch.equal(model(**batch).logits, expected(**batch).logits)


def test_a_pickle_that_runs_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    folder = rewritten(checkpoint(BERT))
    (folder / "model.safetensors").unlink()
    torch.save({WORD: Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match=r"refused.*use a safetensors file"):
        mt.load(folder, allow_pickle=True)
    assert not (tmp_path / "harm").exists()
