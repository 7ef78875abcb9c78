"""The same weights, written differently: old names, prefixes, buffers, tied names, order. All load to one model."""

import json
import random
import re

import pytest
import torch
from oracle import Case, checkpoint, make_batch, rewritten, theirs
from safetensors.torch import load_file

import minitransformer as mt
from minitransformer.errors import CorruptFileError, MismatchError

MLM = Case("bert", "masked-lm")
LM = Case("gpt2", "causal-lm")
TABLES = {MLM: "bert.embeddings.word_embeddings.weight", LM: "transformer.wte.weight"}
MATRICES = {MLM: "cls.predictions.decoder.weight", LM: "lm_head.weight"}
BIAS, DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"


def renamed(pattern, replacement):
    return lambda old: {re.sub(pattern, replacement, name): x for name, x in old.items()}


def with_buffers(case):
    square = torch.ones(17, 17).tril().bool()[None, None]
    if case.family == "bert":
        places = torch.arange(19)[None]
        extra = {f"bert.embeddings.{name}": places.clone() for name in ("position_ids", "token_type_ids")}
    else:
        extra = {f"transformer.h.{i}.attn.bias": (square.float(), square.byte(), square)[i] for i in range(3)}
        extra["transformer.h.1.attn.masked_bias"] = torch.tensor(-1e4)
    return lambda old: {**old, **extra}


def with_copies(case):
    copies = {MATRICES[case]: TABLES[case], **({DECODER_BIAS: BIAS} if case == MLM else {})}
    return lambda old: {**old, **{copy: old[name].clone() for copy, name in copies.items()}}


def only_copies(case):
    originals = {TABLES[case], *({BIAS} if case == MLM else ())}
    return lambda old: {name: x for name, x in with_copies(case)(old).items() if name not in originals}


SPELLINGS = {
    "gamma and beta": (MLM, renamed(r"LayerNorm\.weight", "LayerNorm.gamma")),
    "beta": (MLM, renamed(r"LayerNorm\.bias", "LayerNorm.beta")),
    "bert without prefix": (MLM, renamed(r"^bert\.", "")),
    "gpt2 without prefix": (LM, renamed(r"^transformer\.", "")),
    "bert's buffers": (MLM, with_buffers(MLM)),
    "gpt2's buffers": (LM, with_buffers(LM)),
    "bert's copies of tied tensors": (MLM, with_copies(MLM)),
    "gpt2's copies of tied tensors": (LM, with_copies(LM)),
    "bert's copies only": (MLM, only_copies(MLM)),
    "gpt2's copies only": (LM, only_copies(LM)),
}


def assert_whole_file_in_report(report, folder):
    """Used, ignored and tied together are the file, each name once."""
    file = {report.aliased.get(name, name) for name in load_file(folder / "model.safetensors")}
    parts = [set(report.used), set(report.ignored), set(report.tied)]
    assert set.union(*parts) == file
    assert sum(map(len, parts)) == len(file) == sum(report.file_dtypes.values())


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling, tmp_path):
    case, change = SPELLINGS[spelling]
    folder = rewritten(checkpoint(case), change)
    model = mt.load(folder)
    expected = mt.load(checkpoint(case)).transformer.state_dict()
    loaded = model.transformer.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(x, loaded[name]) for name, x in expected.items())
    assert_whole_file_in_report(model.report, folder)
    model.save(tmp_path)  # in today's spelling, whatever was read
    now, original = (load_file(place / "model.safetensors") for place in (tmp_path, checkpoint(case)))
    assert now.keys() == original.keys()
    assert all(torch.equal(x, now[name]) for name, x in original.items())


def test_what_the_report_says_of_spellings():
    def report(spelling):
        case, change = SPELLINGS[spelling]
        return mt.load(rewritten(checkpoint(case), change)).report

    assert report("gamma and beta").aliased == {
        name.replace(".weight", ".gamma"): name
        for name in load_file(checkpoint(MLM) / "model.safetensors")
        if name.endswith("LayerNorm.weight")
    }
    assert report("bert without prefix").prefix == ""
    assert report("gpt2's buffers").prefix == "transformer."
    assert set(report("bert's buffers").ignored.values()) == {"a buffer: 0, 1, 2, …"}
    assert report("gpt2's buffers").ignored["transformer.h.1.attn.masked_bias"] == "a buffer: the causal mask"
    assert report("bert's copies of tied tensors").tied == {
        MATRICES[MLM]: "embed.tokens.weight",
        DECODER_BIAS: "head.lm.bias",
    }
    assert MATRICES[LM] in report("gpt2's copies only").used


@pytest.mark.parametrize("case", [MLM, LM, Case("bert", "pretraining")], ids=str)
def test_copies_that_differ_untie_the_head(case, tmp_path):
    """Whatever the config says: the file holds two matrices, transformers uses both, and so do we."""
    like = MLM if case.family == "bert" else LM

    def change(old):
        changed = with_copies(like)(old)
        for name in (MATRICES[like], DECODER_BIAS):
            if name in changed:
                changed[name] += 0.25
        return changed

    folder = rewritten(checkpoint(case), change)
    model, batch = mt.load(folder), make_batch(case, "right")
    assert not model.transformer.config.lm.tied
    assert MATRICES[like] in " ".join(model.report.notes)
    assert_whole_file_in_report(model.report, folder)
    name = "prediction_logits" if case.head == "pretraining" else "logits"
    expected = getattr(theirs(case, folder)(**batch), name).detach()
    torch.testing.assert_close(getattr(model(**batch), name).detach(), expected, atol=1e-5, rtol=1e-5)

    model.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False
    saved = getattr(theirs(case, tmp_path)(**batch), name).detach()
    torch.testing.assert_close(saved, expected, atol=0, rtol=0)
    assert torch.equal(load_file(tmp_path / "model.safetensors")[MATRICES[like]], model.transformer.head.lm.weight)


def test_one_copy_that_differs_is_enough():
    def change(old):
        changed = with_copies(MLM)(old)
        changed[DECODER_BIAS][3] += 0.25
        return changed

    folder, batch = rewritten(checkpoint(MLM), change), make_batch(MLM, "right")
    expected = theirs(MLM, folder)(**batch).logits.detach()
    torch.testing.assert_close(mt.load(folder)(**batch).logits.detach(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", [MLM, LM], ids=str)
def test_an_untied_config_needs_both(case):
    with pytest.raises(MismatchError, match=rf"missing.*{re.escape(MATRICES[case])}(.|\n)*'tie_word_embeddings': True"):
        mt.load(checkpoint(case), config={"tie_word_embeddings": False})
    folder = rewritten(checkpoint(case), with_copies(case), {"tie_word_embeddings": False})
    model = mt.load(folder)
    assert not model.transformer.config.lm.tied
    assert_whole_file_in_report(model.report, folder)
    assert model.transformer.head.lm.weight.data_ptr() != model.transformer.embed.tokens.weight.data_ptr()


def test_equal_copies_stay_one_parameter():
    model = mt.load(rewritten(checkpoint(LM), with_copies(LM)))
    assert "head.lm.weight" not in dict(model.named_parameters())
    folder = rewritten(checkpoint(MLM), only_copies(MLM))
    assert "head.lm.weight" not in dict(mt.load(folder).named_parameters())


def test_two_spellings_of_one_tensor():
    name = "bert.embeddings.LayerNorm.weight"
    folder = rewritten(checkpoint(MLM), lambda old: {**old, name.replace("weight", "gamma"): old[name] + 1})
    with pytest.raises(CorruptFileError, match=r"LayerNorm.gamma and .*LayerNorm.weight|LayerNorm.weight and .*gamma"):
        mt.load(folder)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("case", [MLM, LM], ids=str)
def test_any_order(case, seed):
    """Names in the header and tensors behind it in two orders of their own; the library writes one fixed order."""
    folder, tensors = rewritten(checkpoint(case)), load_file(checkpoint(case) / "model.safetensors")
    chance = random.Random(seed)
    header, data = {}, b""
    for name in chance.sample(list(tensors), len(tensors)):
        numbers = tensors[name].numpy().tobytes()
        offsets = [len(data), len(data) + len(numbers)]
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": offsets}
        data += numbers
    text = json.dumps({name: header[name] for name in chance.sample(list(header), len(header))}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    expected = mt.load(checkpoint(case)).transformer.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in mt.load(folder).transformer.state_dict().items())


@pytest.mark.parametrize("case", [MLM, LM], ids=str)
def test_shards(case, tmp_path):
    """Split over many files, a few tensors in each: the same model, and one file after saving."""
    theirs(case).save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    loaded, expected = mt.load(tmp_path), mt.load(checkpoint(case)).transformer.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in loaded.transformer.state_dict().items())
    loaded.save(tmp_path)  # over the shards it was read from
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    again = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(x, again[name]) for name, x in load_file(checkpoint(case) / "model.safetensors").items())
