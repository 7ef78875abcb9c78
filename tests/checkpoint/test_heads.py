"""Which head a load gives, what it takes from the file, and what the report says of the rest."""

import json

import pytest
import torch
import transformers
from checkpoint_helpers import ONE_OF_EACH, assert_same_tensors, state, without
from oracle import PLAIN, Case, assert_same, checkpoint, make_batch, rewritten, theirs
from safetensors.torch import load_file

import minitransformer as mt
from minitransformer.errors import ConfigError, InputError, MismatchError
from minitransformer.families import FAMILIES

BASE, MLM, PRETRAINING = (Case("bert", head) for head in ("base", "masked-lm", "pretraining"))
CLASSIFIER = Case("bert", "sequence-classification")
EVERY_HEAD = [(family, head) for family in FAMILIES for head in FAMILIES[family].classes if head != "base"]
PARTS = ("encoder", "token-classification", "causal-lm")  # of T5 and BART: half a model, which has no base
WHOLE = [(f, head) for f, head in EVERY_HEAD if not (f in ("t5", "bart") and head in PARTS)]
WHOLE.remove(("openai-gpt", "double-heads"))  # its table has the name of another head
POOLER = {"pooler.weight", "pooler.bias"}


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_the_config_names_the_head(case):
    model = mt.load(checkpoint(case))
    assert model.report.head == model.transformer.config.task == ("base" if case.head == "encoder" else case.head)
    assert mt.load(checkpoint(case), head=case.head).report == model.report


@pytest.mark.parametrize("architectures", [None, []])
def test_without_architectures_it_is_the_base(architectures):
    folder = rewritten(checkpoint(MLM), config={"architectures": architectures})
    assert mt.load(folder).report.head == "base"


def in_files(case):
    """The names that transformers writes for a case, without the prefix of its class."""
    names = load_file(checkpoint(case) / "model.safetensors")
    prefix = FAMILIES[case.family].prefix_of(case.head)
    return {name.removeprefix(prefix) for name in names}


@pytest.mark.parametrize(("family", "head"), [pair for pair in EVERY_HEAD if pair != ("bart", "causal-lm")])
def test_a_new_head_on_a_base(family, head):
    """The body as it is; the head drawn at random, as the generator says; the report names each tensor of it."""
    case = Case(family, head)
    folder = checkpoint(Case(family, "base"))
    torch.manual_seed(5)
    model = mt.load(folder, head=head)
    body = state(mt.load(folder))
    fresh = {name for name in state(model) if name.startswith("head.")}
    assert model.report.fresh == dict.fromkeys(fresh, "not in the file")
    for name, x in state(model).items():
        assert x.isfinite().all()
        assert name in fresh or torch.equal(x, body[name]), name
        assert "norm" in name or not name.endswith("weight") or x.std() > 0.01, name
    torch.manual_seed(5)
    assert_same_tensors(state(model), state(mt.load(folder, head=head)))
    unread = in_files(Case(family, "base")) - in_files(case)
    other_name = {"tokens_embed.weight"} if (family, head) == ("openai-gpt", "double-heads") else set()
    assert set(model.report.ignored) == unread - other_name


@pytest.mark.parametrize(("family", "head"), EVERY_HEAD)
def test_a_new_head_can_be_saved(family, head, tmp_path):
    model = mt.load(checkpoint(Case(family, "base")), head=head)
    model.save(tmp_path)
    case = Case(family, head)
    reference, info = theirs(case, tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    batch = make_batch(case, "right")
    with torch.no_grad():
        assert_same(model(**batch), reference(**batch), batch)


@pytest.mark.parametrize(("family", "head"), WHOLE)
def test_the_base_of_a_headed_file_and_back(family, head, tmp_path):
    """The same body, with a pooler only where the file has one; transformers reads it; the head is then new."""
    case, base = Case(family, head), Case(family, "base")
    headed, model = mt.load(checkpoint(case)), mt.load(checkpoint(case), head="base")
    assert not model.report.fresh
    body = {name: x for name, x in state(headed).items() if not name.startswith("head.")}
    pooler = {name: x for name, x in state(model).items() if name not in body}
    assert_same_tensors({**body, **pooler}, state(model))
    has_pooler = any("pooler" in name for name in in_files(case))
    assert not pooler or has_pooler
    if any("pooler" in name for name in in_files(base)) and not has_pooler:
        assert model.report.notes == ("the file has no pooler, so the model has none",)
    model.save(tmp_path)
    if case in ONE_OF_EACH:
        _, info = theirs(base, tmp_path, output_loading_info=True)
        assert all("pooler" in name for name in info.pop("missing_keys"))
        assert not any(info.values()), info
    again = mt.load(tmp_path, head=head)
    assert_same_tensors(body, {name: x for name, x in state(again).items() if not name.startswith("head.")})
    assert {name for name in again.report.fresh if not name.startswith("pooler.")} == {
        name for name in state(headed) if name.startswith("head.")
    }


@pytest.mark.parametrize(
    ("family", "from_head", "to_head"),
    [
        ("t5", "seq2seq-lm", "encoder"),
        ("t5", "sequence-classification", "token-classification"),
        ("t5", "base", "encoder"),
        ("bart", "seq2seq-lm", "causal-lm"),
        ("bart", "base", "causal-lm"),
        ("openai-gpt", "double-heads", "causal-lm"),
        ("gpt2", "double-heads", "causal-lm"),
        ("deit", "image-classification-with-teacher", "image-classification"),
        ("llama", "question-answering", "token-classification"),
        ("roberta", "masked-lm", "causal-lm"),
    ],
)
def test_a_part_of_another_model(family, from_head, to_head):
    """The same weights as those of the whole model, and nothing new but the head where there is another."""
    whole, part = (mt.load(checkpoint(Case(family, from_head)), head=head) for head in (from_head, to_head))
    ours = {name.replace("target_embed.", "embed."): x for name, x in state(whole).items()}
    if to_head == "causal-lm" and family == "bart":  # of two tables of positions, the decoder's
        ours = {name: x for name, x in state(whole).items() if not name.startswith(("embed.positions", "embed.norm"))}
        ours = {name.replace("target_embed.", "embed."): x for name, x in ours.items()}
    for name, x in state(part).items():
        assert name in part.report.fresh or torch.equal(x, ours[name]), name
    assert all(name.startswith("head.") for name in part.report.fresh)


@pytest.mark.parametrize(("family", "head"), [("t5", "token-classification"), ("t5", "encoder"), ("bart", "causal-lm")])
def test_half_a_model_is_not_a_whole(family, head):
    """No random stack stands in for the one that is missing."""
    with pytest.raises(MismatchError, match=r"missing \d+: (.|\n)*(encoder|decoder)\."):
        mt.load(checkpoint(Case(family, head)), head="base")


@pytest.mark.parametrize("family", ["bert", "albert", "roberta", "vit", "deit"])
def test_a_pooler_in_half_is_an_error(family):
    folder = rewritten(checkpoint(Case(family, "base")), without(r"pooler.*bias"))
    with pytest.raises(MismatchError, match=r"missing 1: pooler.*bias \(here pooler.bias\)"):
        mt.load(folder)


def test_a_masked_lm_file_has_no_pooler():
    """As a base model it stays without one; nothing random stands in for it."""
    model, batch = mt.load(checkpoint(MLM), head="base"), make_batch(BASE, "right")
    reference = transformers.BertModel.from_pretrained(
        checkpoint(MLM), add_pooling_layer=False, attn_implementation="eager"
    )
    with torch.no_grad():
        ours, expected = model(**batch), reference(**batch)
    assert ours.pooler_output is None
    assert "no pooler" in " ".join(model.report.notes)
    assert not model.report.fresh
    assert set(model.report.ignored.values()) == {"belongs to another head"}
    torch.testing.assert_close(ours.last_hidden_state, expected.last_hidden_state, atol=1e-5, rtol=1e-5)


def test_a_classifier_from_a_masked_lm_file_has_a_new_pooler():
    model = mt.load(checkpoint(MLM), head="sequence-classification")
    assert set(model.report.fresh) == {*POOLER, "head.cls.weight", "head.cls.bias"}


def test_heads_of_a_pretraining_file():
    """What is there is used; a head that must be there is asked for."""
    report = mt.load(checkpoint(PRETRAINING), head="masked-lm").report
    assert not report.fresh
    assert set(report.ignored.values()) == {"this head does not read the pooler", "belongs to another head"}
    assert set(mt.load(checkpoint(PRETRAINING), head="sequence-classification").report.fresh) == {
        "head.cls.weight",
        "head.cls.bias",
    }
    with pytest.raises(MismatchError, match=r"missing 2: classifier.weight.*classifier.bias(.|\n)*new_head=True"):
        mt.load(checkpoint(PRETRAINING), config={"architectures": ["BertForSequenceClassification"]})
    with pytest.raises(MismatchError, match=r"missing 2: cls.seq_relationship.weight"):
        mt.load(checkpoint(MLM), head="pretraining")  # half a head is a question, not a wish


def test_half_a_head_is_an_error():
    folder = rewritten(checkpoint(CLASSIFIER), lambda old: {n: x for n, x in old.items() if n != "classifier.bias"})
    with pytest.raises(MismatchError, match=r"missing 1: classifier.bias \(here head.cls.bias\)"):
        mt.load(folder, head="sequence-classification")


@pytest.mark.parametrize("labels", [5, ["a", "b", "c", "d", "e"]])
def test_labels(labels, tmp_path):
    names = tuple(labels) if isinstance(labels, list) else tuple(f"LABEL_{i}" for i in range(5))
    with pytest.raises(
        MismatchError, match=r"\[3, 21\] in the file, \[5, 21\] by .*5 is num_labels(.|\n)*new_head=True"
    ):
        mt.load(checkpoint(CLASSIFIER), labels=labels)
    model = mt.load(checkpoint(CLASSIFIER), labels=labels, new_head=True)
    assert model.labels == names
    assert model.report.fresh == dict.fromkeys(["head.cls.weight", "head.cls.bias"], "a new head was asked for")
    assert model.report.ignored == dict.fromkeys(["classifier.weight", "classifier.bias"], "a new head was asked for")
    assert model(torch.tensor([[1, 2]])).logits.shape == (1, 5)
    model.save(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert tuple(config.id2label.values()) == names
    assert config.label2id == {name: i for i, name in enumerate(names)}
    assert mt.load(tmp_path).labels == names


def test_labels_replace_an_older_count(tmp_path):
    """Configs of old count them in a field of its own, which must not contradict the names."""
    folder = rewritten(checkpoint(BASE), config={"num_labels": 7, "id2label": None, "label2id": None})
    assert len(mt.load(folder).labels) == 7
    mt.load(folder, head="token-classification", labels=["x", "y"]).save(tmp_path)
    assert "num_labels" not in json.loads((tmp_path / "config.json").read_text())
    assert theirs(Case("bert", "token-classification"), tmp_path).config.num_labels == 2


@pytest.mark.parametrize("labels", [0, -1, [], ["a", "a"], "abc"])
def test_labels_that_cannot_be(labels):
    with pytest.raises(ConfigError, match="labels: got"):
        mt.load(checkpoint(CLASSIFIER), labels=labels, new_head=True)


def test_new_head_replaces_what_the_file_has():
    old, new = mt.load(checkpoint(CLASSIFIER)), mt.load(checkpoint(CLASSIFIER), new_head=True)
    assert not torch.equal(old.transformer.head.cls.weight, new.transformer.head.cls.weight)
    assert torch.equal(old.transformer.pooler.weight, new.transformer.pooler.weight)


def test_a_new_head_has_the_files_dtype():
    folder = rewritten(checkpoint(BASE), lambda old: {name: x.bfloat16() for name, x in old.items()})
    model = mt.load(folder, head="token-classification", dtype="auto")
    assert {x.dtype for x in model.parameters()} == {torch.bfloat16}


def test_config_replaces_fields(tmp_path):
    """As transformers does with the same fields; the file without its config.json is enough, too."""
    case, batch = BASE, make_batch(BASE, "right")
    changed = {"layer_norm_eps": 0.5, "hidden_act": "relu"}
    model = mt.load(checkpoint(case), config=changed)
    expected = theirs(case, rewritten(checkpoint(case), config=changed))
    with torch.no_grad():
        assert_same(model(**batch), expected(**batch), batch["attention_mask"])
    model.save(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {name: saved[name] for name in changed} == changed
    (tmp_path / "config.json").unlink()
    with torch.no_grad():
        assert_same(mt.load(tmp_path, config=saved)(**batch), expected(**batch), batch["attention_mask"])


def test_a_head_that_is_none():
    with pytest.raises(ConfigError, match=r"head: got 'chat', expected one of base, pretraining.* for bert"):
        mt.load(checkpoint(BASE), head="chat")
    with pytest.raises(ConfigError, match=r"'BertForChat', expected one of BertModel, .*load\(name, head="):
        mt.load(checkpoint(BASE), config={"architectures": ["BertForChat"]})
    assert mt.load(checkpoint(BASE), config={"architectures": ["BertForChat"]}, head="base").report.head == "base"


@pytest.mark.parametrize("dtype", ["float16", torch.int64, None])
def test_a_dtype_that_is_none(dtype):
    with pytest.raises(InputError, match="dtype: got"):
        mt.load(checkpoint(BASE), dtype=dtype)


def test_the_report_can_be_read_and_kept():
    report = mt.load(checkpoint(BASE), head="token-classification").report
    text = str(report)
    for words in ("family   bert, head token-classification, names without prefix", "37 of 39", "39 × F32", "pooler"):
        assert words in text
    assert "fresh    2 (not in the file): head.cls.weight, head.cls.bias" in text
    assert json.loads(json.dumps(report.to_dict()))["fresh"] == report.fresh
