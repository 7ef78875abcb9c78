"""The same files as transformers': what it writes we read and write again bit by bit, and what we write it reads."""

import hashlib
import json
import re

import pytest
import torch
import transformers
from oracle import CASES, PLAIN, Case, checkpoint, rewritten, theirs
from safetensors import safe_open
from safetensors.torch import load_file

import minitransformer as mt

OUR_NAMES = re.compile(
    r"(target_)?embed\.(tokens|positions|types)\.weight|(target_)?embed\.norm\.(weight|bias)|embed\.proj\.(weight|bias)"
    r"|embed\.(class_token|distillation_token|positions|patches\.(weight|bias))"
    r"|pooler\.(weight|bias)|head\.(lm|lm\.dense|lm\.norm|pairs|cls|qa|dense|mc|distillation)\.(weight|bias)"
    r"|(encoder|decoder)\.layers\.\d+\.(self_attn\.[qkvo]|self_attn_norm|ffn_norm|ffn\.(up|gate|down))\.(weight|bias)"
    r"|(encoder|decoder)\.layers\.\d+\.self_attn\.[qk]_norm\.weight"
    r"|decoder\.layers\.\d+\.(cross_attn\.[qkvo]|cross_attn_norm)\.(weight|bias)"
    r"|(encoder|decoder)\.(final_norm\.(weight|bias)|relative_bias\.weight)"
)
# Untied heads have them and do not use them: what is written is a copy of what is used.
UNUSED = {
    "bert": "cls.predictions.bias",
    "roberta": "lm_head.bias",
    "xlm-roberta": "lm_head.bias",
    "albert": "predictions.bias",
    "bart": "model.shared.weight",
}


def unused(case, names):
    """The names in an untied model's file that its numbers do not depend on."""
    found = (
        {UNUSED[case.family]} if case.family in UNUSED and case.variant in ("odd", "untied", "odd-decoder") else set()
    )
    tied = case.family == "bart" and case.variant != "untied"
    return set() if tied else (found | {name.removeprefix("model.") for name in found}) & set(names)


def used(case, tensors):
    """The tensors that the model's numbers depend on; T5's unscaled head is written out even where it is the table."""
    written = {"lm_head.weight"} if str(case) == "t5-seq2seq-lm-odd" else set()
    if str(case) == "openai-gpt-double-heads-plain":  # its table has two names, of which transformers stores the other
        written = {"transformer.tokens_embed.weight"}
    return {name: x for name, x in tensors.items() if name not in unused(case, tensors) | written}


def assert_equal_tensors(first, second):
    """Same names, dtypes, shapes and bits."""
    assert first.keys() == second.keys()
    for name, x in first.items():
        assert x.dtype == second[name].dtype, name
        assert torch.equal(x, second[name]), name


@pytest.mark.parametrize("case", CASES, ids=str)
def test_round_trip(case, tmp_path):
    folder = checkpoint(case)
    model = mt.load(folder)
    model.save(tmp_path / "saved")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "saved" / "model.safetensors")
    assert unused(case, before) == unused(case, after)
    assert_equal_tensors(used(case, before), used(case, after))
    assert {x.dtype for x in after.values()} == {torch.float32}
    assert set(model.report.used) | set(model.report.ignored) == before.keys()
    computed = {name for name in before if case.family == "marian" and "embed_positions" in name}
    assert set(model.report.ignored) == unused(case, before) | computed
    assert not model.report.fresh


@pytest.mark.parametrize("case", CASES, ids=str)
def test_transformers_reads_what_we_save(case, tmp_path):
    mt.load(checkpoint(case)).save(tmp_path)
    reference, info = theirs(case, tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert_equal_tensors(used(case, theirs(case).state_dict()), used(case, reference.state_dict()))
    configs = [json.loads((place / "config.json").read_text()) for place in (checkpoint(case), tmp_path)]
    if (case.family, case.head, case.variant) == ("t5", "seq2seq-lm", "odd"):  # older readers need it like this
        assert (configs[0].pop("tie_word_embeddings"), configs[1].pop("tie_word_embeddings")) == (True, False)
    assert configs[0] == configs[1]
    automatic = transformers.AutoConfig.from_pretrained(tmp_path)
    assert automatic.architectures == [case.cls.__name__]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_names(case):
    """Every parameter has one of the public names, and every one of them a place in the file (or it could not load)."""
    names = [name for name, _ in mt.load(checkpoint(case)).named_parameters()]
    assert all(OUR_NAMES.fullmatch(name) for name in names), names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_saving_twice_gives_the_same_bytes(case, tmp_path):
    model = mt.load(checkpoint(case))
    for name in ("first", "second"):
        model.save(tmp_path / name)
    mt.load(tmp_path / "first").save(tmp_path / "third")
    sums = {
        hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest()
        for name in ("first", "second", "third")
        for file in ("model.safetensors", "config.json")
    }
    assert len(sums) == 2


HALVES = [case for case in PLAIN if case.head in ("masked-lm", "causal-lm", "seq2seq-lm", "image-classification")]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("case", HALVES, ids=str)
def test_dtypes(case, dtype, tmp_path):
    """Half precision becomes float32 unless asked otherwise; "auto" keeps it, and then a save is bit-equal."""
    name = str(dtype).removeprefix("torch.")
    folder = rewritten(checkpoint(case), lambda old: {n: x.to(dtype) for n, x in old.items()}, {"dtype": name})
    before = load_file(folder / "model.safetensors")
    assert {x.dtype for x in mt.load(folder).parameters()} == {torch.float32}
    assert {x.dtype for x in mt.load(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}
    kept = mt.load(folder, dtype="auto")
    assert {x.dtype for x in kept.transformer.state_dict().values()} == {dtype}
    kept.save(tmp_path / "kept")
    assert_equal_tensors(load_file(tmp_path / "kept" / "model.safetensors"), before)
    assert json.loads((tmp_path / "kept" / "config.json").read_text())["dtype"] == name
    mt.load(folder).save(tmp_path / "wide")
    assert_equal_tensors(
        load_file(tmp_path / "wide" / "model.safetensors"), {n: x.to(torch.float32) for n, x in before.items()}
    )
    assert json.loads((tmp_path / "wide" / "config.json").read_text())["dtype"] == "float32"


def test_mixed_dtypes_are_kept(tmp_path):
    """One tensor in half precision among others: "auto" keeps each as it is."""
    case, narrow = Case("bert", "masked-lm"), "bert.encoder.layer.0.output.dense.weight"
    folder = rewritten(checkpoint(case), lambda old: {**old, narrow: old[narrow].half()})
    model = mt.load(folder, dtype="auto")
    assert model.report.file_dtypes["F16"] == 1
    model.save(tmp_path)
    assert_equal_tensors(load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors"))


def test_the_file_says_its_format(tmp_path):
    """Older readers refuse a file without it."""
    mt.load(checkpoint(Case("gpt2", "base"))).save(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_config_keeps_what_it_had(tmp_path):
    """Fields we know nothing of survive, in their order; the older spelling of dtype stays."""
    changes = {"dtype": None, "torch_dtype": "float16", "my": [1]}
    folder = rewritten(checkpoint(Case("bert", "masked-lm")), config=changes)
    mt.load(folder).save(tmp_path)
    before, after = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path))
    assert list(before) == list(after)
    assert {**before, "torch_dtype": "float32"} == after
