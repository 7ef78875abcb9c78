"""The same weights, written differently: old names, prefixes, buffers, tied names, order. All load to one model."""

import functools
import json
import random
import tempfile
from pathlib import Path

import pytest
import torch
from checkpoint_helpers import (
    COPIES,
    ONE_OF_EACH,
    TIES,
    assert_same_tensors,
    assert_whole_file_in_report,
    names_of,
    only_copies,
    renamed,
    state,
    with_copies,
    without,
)
from oracle import Case, assert_same, checkpoint, make_batch, rewritten, theirs
from safetensors.torch import load_file

import minitransformer as mt
from minitransformer.errors import CorruptFileError
from minitransformer.families import FAMILIES
from minitransformer.ops import BOOKS

SQUARE = torch.ones(17, 17).tril().bool()[None, None]
PLACES = torch.arange(19)[None]
MASK_OF_GPT = {f"transformer.h.{i}.attn.bias": x for i, x in enumerate((SQUARE.float(), SQUARE.byte(), SQUARE))}
POOLER = {"dense.weight": torch.ones(21, 21), "dense.bias": torch.ones(21)}
TABLE = BOOKS["by_hand"].sinusoidal_halves(torch.arange(21), 18)
INV_FREQ = {f"model.{place}rotary_emb.inv_freq": torch.ones(3) for place in ("", "layers.0.self_attn.")}
ROTARY = [
    (INV_FREQ, "a buffer: the rotary positions' frequencies"),
    ({"score.weight": torch.ones(2, 24)}, "belongs to another head"),
]
# What a file may hold besides, in one generation of programs or another: family -> names and tensors, and why ignored.
EXTRAS = {
    "bert": [
        ({f"bert.embeddings.{name}": PLACES for name in ("position_ids", "token_type_ids")}, "a buffer: 0, 1, 2, …"),
        ({f"bert.pooler.{name}": x for name, x in POOLER.items()}, "this head does not read the pooler"),
        ({"cls.seq_relationship.weight": torch.ones(2, 21)}, "belongs to another head"),
    ],
    "roberta": [
        ({"roberta.embeddings.position_ids": PLACES}, "a buffer: 0, 1, 2, …"),
        ({f"roberta.pooler.{name}": x for name, x in POOLER.items()}, "this head does not read the pooler"),
    ],
    "xlm-roberta": [({"roberta.embeddings.position_ids": PLACES}, "a buffer: 0, 1, 2, …")],
    "distilbert": [({"distilbert.embeddings.position_ids": PLACES}, "a buffer: 0, 1, 2, …")],
    "albert": [
        ({"albert.embeddings.position_ids": PLACES}, "a buffer: 0, 1, 2, …"),
        ({"albert.pooler.weight": torch.ones(21, 21)}, "this head does not read the pooler"),
        ({"sop_classifier.classifier.bias": torch.ones(2)}, "belongs to another head"),
    ],
    "electra": [
        ({"electra.embeddings.position_ids": PLACES}, "a buffer: 0, 1, 2, …"),
        ({"discriminator_predictions.dense.bias": torch.ones(21)}, "belongs to another head"),
    ],
    "openai-gpt": [
        (MASK_OF_GPT, "a buffer: the causal mask"),
        ({"transformer.position_ids": PLACES}, "a buffer: 0, 1, 2, …"),
        ({"multiple_choice_head.summary.bias": torch.ones(1)}, "belongs to another head"),
    ],
    "gpt2": [
        ({**MASK_OF_GPT, "transformer.h.1.attn.masked_bias": torch.tensor(-1e4)}, "a buffer: the causal mask"),
    ],
    "llama": ROTARY,
    "mistral": ROTARY,
    "qwen2": ROTARY,
    "qwen3": ROTARY,
    "t5": [
        (
            {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(8, 4)},
            "never used",
        ),
        ({"qa_outputs.bias": torch.ones(2)}, "belongs to another head"),
    ],
    "bart": [
        (
            {"model.encoder.version": torch.tensor([3.0]), "model.decoder.version": torch.tensor([3.0])},
            "a number of the program that wrote it",
        ),
        ({"classification_head.dense.bias": torch.ones(18)}, "belongs to another head"),
    ],
    "marian": [
        (
            {f"model.{stack}.embed_positions.weight": TABLE for stack in ("encoder", "decoder")},
            "sinusoids, which are computed",
        ),
    ],
    "vit": [
        ({"vit.embeddings.mask_token": torch.ones(1, 1, 20)}, "for pretraining by masked patches"),
        ({"vit.pooler.dense.bias": torch.ones(20)}, "this head does not read the pooler"),
    ],
    "deit": [
        ({"deit.embeddings.mask_token": torch.ones(1, 1, 20)}, "for pretraining by masked patches"),
        ({"classifier.bias": torch.ones(3)}, "belongs to another head"),
    ],
}
IN_MEMORY = [  # transformers' names in memory, which old scripts wrote as they were
    (r"\.encoder\.layer\.", ".layers."),
    (r"attention\.attention\.query", "attention.q_proj"),
    (r"attention\.attention\.key", "attention.k_proj"),
    (r"attention\.attention\.value", "attention.v_proj"),
    (r"attention\.output\.dense", "attention.o_proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"\.output\.dense", ".mlp.fc2"),
]
GAMMA_BETA = ("bert", "roberta", "xlm-roberta", "distilbert", "albert", "electra")


def spellings():
    """(case, in words, the change)."""
    for case in ONE_OF_EACH:
        family = FAMILIES[case.family]
        prefix = family.prefix_of(case.head).replace(".", r"\.")
        if prefix:
            yield case, "no prefix", renamed((f"^{prefix}", ""))
        for extras, why in EXTRAS[case.family]:
            yield case, why, lambda old, extras=extras: {**old, **{name: x.clone() for name, x in extras.items()}}
        if case.family in GAMMA_BETA:
            yield case, "gamma", renamed((r"LayerNorm\.weight$", "LayerNorm.gamma"))
            yield (
                case,
                "gamma and beta",
                renamed((r"LayerNorm\.(weight)$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta")),
            )
        if case.family in ("vit", "deit"):
            yield case, "names of memory", renamed(*IN_MEMORY)
            yield case, "names of memory, no prefix", renamed(*IN_MEMORY, (f"^{prefix}", ""))
    for case in dict.fromkeys([*TIES, *COPIES]):
        yield case, "copies", with_copies(names_of(case))
        for copy, name in names_of(case).items():
            yield case, f"only {copy}", only_copies({copy: name})
        if case in TIES and len(names_of(case)) > 1:
            yield case, "copies only", only_copies(names_of(case))
    for case in (Case("bart", "seq2seq-lm"), Case("marian", "seq2seq-lm")):
        yield case, "no final_logits_bias", without("final_logits_bias")
    flipped = Case("openai-gpt", "double-heads")  # here the second name is the one that transformers writes
    yield flipped, "copies", with_copies({"transformer.tokens_embed.weight": "lm_head.weight"})
    yield (
        flipped,
        "only transformer.tokens_embed.weight",
        only_copies({"transformer.tokens_embed.weight": "lm_head.weight"}),
    )


SPELLINGS = [pytest.param(case, change, id=f"{case}: {words}") for case, words, change in spellings()]


@functools.cache
def saved_as_it_is(case):
    """What a save of the plain file writes."""
    with tempfile.TemporaryDirectory() as folder:
        mt.load(checkpoint(case)).save(folder)
        return {name: x.clone() for name, x in load_file(Path(folder) / "model.safetensors").items()}


@pytest.mark.parametrize(("case", "change"), SPELLINGS)
def test_spellings(case, change, tmp_path):
    """To the same tensors, and saved as today, whatever was read."""
    folder = rewritten(checkpoint(case), change)
    assert load_file(folder / "model.safetensors").keys() != load_file(checkpoint(case) / "model.safetensors").keys()
    model = mt.load(folder)
    assert_same_tensors(state(model), state(mt.load(checkpoint(case))))
    assert_whole_file_in_report(model.report, folder)
    model.save(tmp_path)
    assert_same_tensors(load_file(tmp_path / "model.safetensors"), saved_as_it_is(case))


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_why_it_is_ignored(case):
    every = {name: x for extras, _ in EXTRAS[case.family] for name, x in extras.items()}
    folder = rewritten(checkpoint(case), lambda old: {**old, **{name: x.clone() for name, x in every.items()}})
    ignored = mt.load(folder).report.ignored
    for extras, why in EXTRAS[case.family]:
        assert {ignored[name] for name in extras} == {why}


def test_what_the_report_says_of_spellings():
    mlm = Case("bert", "masked-lm")
    old = rewritten(checkpoint(mlm), renamed((r"LayerNorm\.weight$", "LayerNorm.gamma")))
    assert mt.load(old).report.aliased == {
        name.replace(".weight", ".gamma"): name
        for name in load_file(checkpoint(mlm) / "model.safetensors")
        if name.endswith("LayerNorm.weight")
    }
    assert mt.load(checkpoint(mlm)).report.prefix == "bert."
    assert mt.load(rewritten(checkpoint(mlm), renamed((r"^bert\.", "")))).report.prefix == ""
    report = mt.load(rewritten(checkpoint(mlm), with_copies(TIES[mlm]))).report
    assert report.tied == {
        "cls.predictions.decoder.weight": "embed.tokens.weight",
        "cls.predictions.decoder.bias": "head.lm.bias",
    }
    lm = Case("gpt2", "causal-lm")
    assert "lm_head.weight" in mt.load(rewritten(checkpoint(lm), only_copies(TIES[lm]))).report.used
    zeros = mt.load(rewritten(checkpoint(Case("bart", "seq2seq-lm")), without("final_logits_bias"))).report
    assert zeros.fresh == {"head.lm.bias": "not in the file, which means zeros"}


@pytest.mark.parametrize("family", ["bart", "marian"])
def test_a_bias_of_zeros_that_is_not_in_the_file(family, tmp_path):
    """And one that is there is no zero: it counts."""
    case = Case(family, "seq2seq-lm")
    batch = make_batch(case, "right")
    for change in (without("final_logits_bias"), lambda old: {**old, "final_logits_bias": torch.randn(1, 43)}):
        folder = rewritten(checkpoint(case), change)
        model = mt.load(folder)
        with torch.no_grad():
            assert_same(model(**batch), theirs(case, folder)(**batch), batch)
        model.save(tmp_path)
        assert torch.equal(
            load_file(tmp_path / "model.safetensors")["final_logits_bias"][0], state(model)["head.lm.bias"]
        )


@pytest.mark.parametrize("case", [case for case in ONE_OF_EACH if case.family in GAMMA_BETA], ids=str)
def test_two_spellings_of_one_tensor(case):
    names = load_file(checkpoint(case) / "model.safetensors")
    name = next(name for name in names if name.endswith("embeddings.LayerNorm.weight"))
    folder = rewritten(checkpoint(case), lambda old: {**old, name.replace("weight", "gamma"): old[name] + 1})
    with pytest.raises(CorruptFileError, match=r"LayerNorm.gamma and .*LayerNorm.weight|LayerNorm.weight and .*gamma"):
        mt.load(folder)


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_any_order(case):
    """Names in the header and tensors behind it in two orders of their own; the library writes one fixed order."""
    folder, tensors = rewritten(checkpoint(case)), load_file(checkpoint(case) / "model.safetensors")
    chance = random.Random(str(case))
    header, data = {}, b""
    for name in chance.sample(list(tensors), len(tensors)):
        numbers = tensors[name].numpy().tobytes()
        offsets = [len(data), len(data) + len(numbers)]
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": offsets}
        data += numbers
    text = json.dumps({name: header[name] for name in chance.sample(list(header), len(header))}).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert_same_tensors(state(mt.load(folder)), state(mt.load(checkpoint(case))))


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_shards(case, tmp_path):
    """Split over many files, a few tensors in each: the same model, and one file after saving."""
    theirs(case).save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    loaded = mt.load(tmp_path)
    assert_same_tensors(state(loaded), state(mt.load(checkpoint(case))))
    loaded.save(tmp_path)  # over the shards it was read from
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    assert_same_tensors(load_file(tmp_path / "model.safetensors"), saved_as_it_is(case))
