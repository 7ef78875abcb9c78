"""Adapters as files: peft loads ours, we load peft's, and what is wrong with a file is said before anything changes."""

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import CASES, IMAGES, PLAIN, ROTARY, Case, assert_same, checkpoint, make_batch, theirs
from peft import IA3Config, LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file

import minitransformer as mt
from minitransformer.checkpoint import adapter_base, adapter_head, load_adapter, save_adapter
from minitransformer.errors import ConfigError, CorruptFileError, MiniTransformerError, MismatchError, NotFoundError
from minitransformer.model.adapters import add_adapters, add_lora, beside, lora_layers, names_beside, remove_adapters

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks transformers

ROUNDED = {"t5", "marian"} | IMAGES | ROTARY  # transformers computes parts of them in float32
TASKS = {
    "sequence-classification": TaskType.SEQ_CLS,
    "token-classification": TaskType.TOKEN_CLS,
    "question-answering": TaskType.QUESTION_ANS,
    "causal-lm": TaskType.CAUSAL_LM,
    "seq2seq-lm": TaskType.SEQ_2_SEQ_LM,
}
FEW = [  # one of each family, and every head in one of them
    case
    for case in PLAIN
    if case.head == "sequence-classification"
    or (case.family == "bert" and case.variant == "plain")
    or (case.family == "gpt2" and case.head in ("causal-lm", "double-heads"))
    or (case.family in ("marian", "t5") and case.head in ("seq2seq-lm", "encoder"))
    or (case.family in ("albert", "electra") and case.head == "pretraining")
    or (case.family in ("vit", "deit") and case.head in ("image-classification", "image-classification-with-teacher"))
]
ONE = {case.family: case for case in FEW}.values()
CASES_AND_SLOW = [case if case in FEW else pytest.param(case, marks=pytest.mark.slow) for case in PLAIN]
ONE_AND_SLOW = [case if case in ONE else pytest.param(case, marks=pytest.mark.slow) for case in PLAIN]
PEFT_TARGETS = {  # where peft has no targets of its own
    "distilbert": ["q_lin", "v_lin"],
    "albert": ["query", "value"],
    "openai-gpt": ["c_attn"],
    "marian": ["q_proj", "v_proj"],
    "vit": ["q_proj", "v_proj"],
    "deit": ["q_proj", "v_proj"],
}
BERT = Case("bert", "sequence-classification")
GPT2 = Case("gpt2", "sequence-classification")


def noise(tensors, std=0.2):
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for x in tensors:
            x.add_(torch.randn(x.shape, generator=generator, dtype=x.dtype), alpha=std)


def in_double(batch):
    return {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}


def loaded(case):
    return mt.load(checkpoint(case), dtype=torch.float64)


def trained(case, **options):
    """Our model with a LoRA whose every number is its own, and so is the head's; the rest is frozen."""
    model = loaded(case)
    add_lora(model.transformer, **{"rank": 2, "alpha": 3, **options})
    kept = names_beside(model.transformer)
    for name, x in model.transformer.named_parameters():
        x.requires_grad_(name in kept)
    noise([model.transformer.get_parameter(name) for name in kept])
    return model


def saved(model, folder):
    folder.mkdir(exist_ok=True)
    save_adapter(model.transformer, model.family, model.raw_config, "the/base", folder)
    return json.loads((folder / "adapter_config.json").read_text())


def in_peft(case, folder):
    """peft's model of our files, in float64."""
    base = theirs(case, dtype=torch.float64)
    return PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=False).double().eval()


def made_by_peft(case, folder, **options):
    """peft's own model with noise on all that it trains, written by peft."""
    fused = {"fan_in_fan_out": case.family in ("gpt2", "openai-gpt")}  # else peft says so, and warns
    options = {"r": 3, "lora_alpha": 5, "target_modules": PEFT_TARGETS.get(case.family), **fused, **options}
    config = LoraConfig(task_type=TASKS.get(case.head), **options)
    peft = get_peft_model(theirs(case, dtype=torch.float64), config, autocast_adapter_dtype=False).double()
    noise([x for x in peft.parameters() if x.requires_grad])
    peft.save_pretrained(folder)
    return peft.eval()


def assert_equal_outputs(case, ours, peft, batch=None):
    """Our outputs are peft's. Its model is called without peft's wrapper, which leaves some inputs out."""
    batch = in_double(make_batch(case) if batch is None else batch)
    tolerance = 1e-5 if case.family in ROUNDED else 1e-9
    with torch.no_grad():
        expected = peft.get_base_model()(**batch)
        assert_same(ours(**batch), expected, batch, atol=tolerance, rtol=tolerance)
        return ours(**batch).last_hidden_state


def assert_same_merged(ours, folder_of_ours, peft, folder_of_peft):
    """Both, merged and written, are the same file to 1e-12: also where transformers computes in float32."""
    ours.save(folder_of_ours)
    peft.merge_and_unload().save_pretrained(folder_of_peft)
    mine, expected = (load_file(folder / "model.safetensors") for folder in (folder_of_ours, folder_of_peft))
    second = {"transformer.tokens_embed.weight", "lm_head.weight"}  # one tensor, under either name
    assert mine.keys() - second == expected.keys() - second
    sinusoids = {f"{stack}.embed_positions.weight" for stack in ("encoder", "decoder")}  # computed in float32
    for name in mine.keys() & expected.keys() - sinusoids:
        x = expected[name]
        torch.testing.assert_close(mine[name].double(), x.double(), atol=1e-12, rtol=1e-12, msg=name)


@pytest.mark.parametrize("case", CASES_AND_SLOW, ids=str)
def test_peft_loads_ours(case, tmp_path):
    model = trained(case, targets=("q", "v", "o", "down"))
    plain = loaded(case)(**in_double(make_batch(case))).last_hidden_state
    config = saved(model, tmp_path / "adapter")
    peft = in_peft(case, tmp_path / "adapter")
    hidden = assert_equal_outputs(case, model, peft)
    assert (hidden - plain).abs().max() > 0.1  # the adapter matters
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == (
        TASKS.get(case.head) or ("FEATURE_EXTRACTION" if case.head in ("base", "encoder") else None)
    )
    again = loaded(case)
    given_names = load_adapter(again.transformer, again.family, tmp_path / "adapter")
    assert set(given_names) == set(names_beside(model.transformer)) - beside(model.transformer).keys()
    torch.testing.assert_close(again(**in_double(make_batch(case))).last_hidden_state, hidden, atol=1e-12, rtol=1e-12)
    assert_same_merged(model, tmp_path / "ours", peft, tmp_path / "theirs")


@pytest.mark.parametrize("case", ONE_AND_SLOW, ids=str)
def test_we_load_what_peft_made(case, tmp_path):
    head = {"modules_to_save": ["classifier"]} if case.head.startswith("image") else {}
    peft = made_by_peft(case, tmp_path / "adapter", **head)
    model = loaded(case)
    random = torch.get_rng_state()
    load_adapter(model.transformer, model.family, tmp_path / "adapter")
    assert torch.equal(torch.get_rng_state(), random)
    assert_equal_outputs(case, model, peft)
    trains = {name for name, x in model.transformer.named_parameters() if x.requires_grad}
    assert beside(model.transformer).keys() <= trains
    assert not any(name.endswith(("q.weight", "tokens.weight")) for name in trains)
    assert_same_merged(model, tmp_path / "ours", peft, tmp_path / "theirs")


OPTIONS = {
    "rslora": {"use_rslora": True, "lora_dropout": 0.3},
    "several": {
        "target_modules": ["query", "dense"],
        "rank_pattern": {"query": 1, "layer.1.intermediate.dense": 4},
        "alpha_pattern": {"layer.0.attention.self.query": 2.5},
    },
    "from the root": {"target_modules": ["query"], "rank_pattern": {"^bert.encoder.layer.0.attention.self.query": 2}},
    "all-linear": {"target_modules": "all-linear"},
    "a pattern": {"target_modules": r".*layer\.1.*(key|value)"},
    "some layers": {"target_modules": ["value"], "layers_to_transform": [1]},
    "excluded": {"target_modules": ["query", "value"], "exclude_modules": r".*layer\.0.*query"},
    "the pooler": {"target_modules": ["value"], "modules_to_save": ["pooler"]},
    "a whole matrix": {"target_modules": ["value"], "modules_to_save": ["attention.self.query"]},
}


@pytest.mark.parametrize("what", OPTIONS)
def test_options_of_peft(what, tmp_path):
    peft = made_by_peft(BERT, tmp_path / "adapter", **OPTIONS[what])
    model = loaded(BERT)
    load_adapter(model.transformer, model.family, tmp_path / "adapter")
    assert_equal_outputs(BERT, model, peft)
    if what == "a whole matrix":
        return  # it trains, and a folder of ours holds no matrix of the base
    saved(model, tmp_path / "again")
    assert_equal_outputs(BERT, model, in_peft(BERT, tmp_path / "again"))


@pytest.mark.parametrize("rslora", [False, True])
def test_parts_of_one_matrix_are_one_lora_of_higher_rank(rslora, tmp_path):
    model = trained(GPT2, targets=("q", "v", "o"), rslora=rslora)
    config = saved(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    root = "base_model.model.transformer.h.0.attn"
    a, b = (tensors[f"{root}.c_attn.lora_{which}.weight"] for which in "AB")
    width = model.transformer.config.embed.d_model
    assert (a.shape, b.shape) == ((4, width), (3 * width, 4))
    assert not b[width : 2 * width].any()  # the keys
    assert not b[:width, 2:].any()
    assert tensors[f"{root}.c_proj.lora_A.weight"].shape == (2, width)
    assert config["fan_in_fan_out"] is True
    assert config["use_rslora"] is rslora
    ranks = {len(x) for name, x in tensors.items() if "lora_A" in name}
    assert ranks == {config["r"], *config["rank_pattern"].values()} == {2, 4}
    again = loaded(GPT2)
    load_adapter(again.transformer, again.family, tmp_path)
    assert {name: layer.rank for name, layer in lora_layers(again.transformer)} == {
        name: 2 for name, _ in lora_layers(model.transformer)
    }
    assert all(torch.equal(x, beside(model.transformer)[name]) for name, x in beside(again.transformer).items())


def test_parts_of_unequal_scale(tmp_path):
    model = trained(GPT2, targets=("q",), rank=2, alpha=3)
    add_lora(model.transformer, targets=("v", "o"), rank=3, alpha=7)
    noise(x for name, x in beside(model.transformer).items() if ".q." not in name)
    saved(model, tmp_path)
    assert_equal_outputs(GPT2, model, in_peft(GPT2, tmp_path))


def test_a_lora_of_a_fused_matrix_keeps_its_rank(tmp_path):
    peft = made_by_peft(GPT2, tmp_path / "adapter")
    model = loaded(GPT2)
    load_adapter(model.transformer, model.family, tmp_path / "adapter")
    found = dict(lora_layers(model.transformer))
    assert {name.rpartition(".")[2] for name in found} == {"q", "k", "v"}
    config = saved(model, tmp_path / "again")
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (3, 5, {})
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(x, second[name]) for name, x in first.items())
    assert_equal_outputs(GPT2, model, peft)


def test_an_untrained_fused_lora_loads_whole(tmp_path):
    model = loaded(GPT2)
    add_lora(model.transformer, rank=2, targets=("q", "v"))
    for name, x in model.transformer.named_parameters():
        x.requires_grad_(name in names_beside(model.transformer))
    saved(model, tmp_path)
    again = loaded(GPT2)
    load_adapter(again.transformer, again.family, tmp_path)
    assert not any(layer.lora_b.any() for _, layer in lora_layers(again.transformer))


def test_float32_to_the_noise_floor(tmp_path):
    model = mt.load(checkpoint(BERT))
    add_lora(model.transformer, targets=("q", "k", "v", "o", "up", "down"))
    kept = names_beside(model.transformer)
    for name, x in model.transformer.named_parameters():
        x.requires_grad_(name in kept)
    noise([model.transformer.get_parameter(name) for name in kept])
    saved(model, tmp_path)
    batch = make_batch(BERT)
    expected = PeftModel.from_pretrained(theirs(BERT), tmp_path)(**batch).logits
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=1e-5)


def test_the_folder_says_its_base_head_and_labels(tmp_path):
    config = saved(trained(BERT), tmp_path)
    assert adapter_base(tmp_path) == config["base_model_name_or_path"] == "the/base"
    assert adapter_head(tmp_path, mt.load(checkpoint(BERT)).family) == "sequence-classification"
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["architectures"] == ["BertForSequenceClassification"]
    assert len(fields["id2label"]) == BERT.labels


@pytest.mark.parametrize("name", [None, 3, "", "  ", "a\nb", "x" * 2000, ["a"]])
def test_a_base_without_a_name(name, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": name}))
    with pytest.raises(ConfigError, match=r"base_model_name_or_path: got .*expected a model's name"):
        adapter_base(tmp_path)


@pytest.mark.parametrize("case", [BERT, GPT2, Case("bart", "seq2seq-lm"), Case("vit", "image-classification")], ids=str)
def test_bottlenecks_come_back(case, tmp_path):
    model = loaded(case)
    add_adapters(model.transformer, 5, "relu")
    kept = names_beside(model.transformer)
    for name, x in model.transformer.named_parameters():
        x.requires_grad_(name in kept)
    noise([model.transformer.get_parameter(name) for name in kept])
    saved(model, tmp_path)
    again = loaded(case)
    load_adapter(again.transformer, again.family, tmp_path)
    batch = in_double(make_batch(case))
    plain = loaded(case)(**batch).logits
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert not torch.allclose(plain, model(**batch).logits, atol=1e-2)
    assert {name for name, x in again.transformer.named_parameters() if x.requires_grad} == set(kept)


def test_what_is_not_saved():
    model = mt.load(checkpoint(BERT))
    call = (model.transformer, model.family, model.raw_config, "base", None)
    with pytest.raises(ConfigError, match="got a model without an adapter"):
        save_adapter(*call)
    add_lora(model.transformer)
    with pytest.raises(ConfigError, match=r"weights of the base train, too .*choose\(model, 'lora'\)"):
        save_adapter(*call)
    add_adapters(model.transformer)
    with pytest.raises(ConfigError, match="got LoRA and bottleneck adapters, expected one kind"):
        save_adapter(*call)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder of peft's that loads."""
    folder = tmp_path_factory.mktemp("peft")
    made_by_peft(BERT, folder, modules_to_save=["pooler"])
    return folder


def altered(good, folder, config=None, tensors=None):
    shutil.copytree(good, folder)
    fields = {**json.loads((folder / "adapter_config.json").read_text()), **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    if tensors is not None:
        path = folder / "adapter_model.safetensors"
        save_file(tensors(load_file(path)), path)
    return folder


def assert_refused(folder, error, message, case=BERT):
    """An error, and a model as it was."""
    model = mt.load(checkpoint(case))
    before = {name: x.clone() for name, x in model.transformer.state_dict().items()}
    with pytest.raises(error, match=message):
        load_adapter(model.transformer, model.family, folder)
    after = model.transformer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(x, after[name]) for name, x in before.items())
    assert all(x.requires_grad for x in model.transformer.parameters())


CONFIGS = {
    "another kind": ({"peft_type": "VERA"}, "peft_type: got 'VERA', expected 'LORA'"),
    "no kind": ({"peft_type": None}, "peft_type: got None"),
    "DoRA": ({"use_dora": True}, "use_dora: got True"),
    "from the future": ({"spiral": {"turns": 3}}, "spiral: got .*merge it with peft"),
    "biases": ({"bias": "lora_only"}, "bias: got 'lora_only', expected 'none'"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "init_lora_weights: got 'pissa'"),
    "no rank": ({"r": 0}, "r: got 0, expected a whole number from 1"),
    "an absurd rank": ({"r": 10**30}, "r: got 1000.*expected a whole number"),
    "a rank of text": ({"r": "3"}, "r: got '3'"),
    "another rank": ({"r": 4}, r"lora_A is \[3, 21\] .*expected \[4, 21\]"),
    "an infinite alpha": ({"lora_alpha": 10**400}, "lora_alpha: got 1000"),
    "dropout": ({"lora_dropout": 1.5}, "lora_dropout: got 1.5"),
    "a flag of text": ({"use_rslora": "yes"}, "use_rslora: got 'yes'"),
    "targets of numbers": ({"target_modules": [3]}, "target_modules: got"),
    "an endless pattern": ({"rank_pattern": {"(a+)+$": 2}}, r"rank_pattern: got '\(a\+\)\+\$', expected the name"),
    "more targets": ({"target_modules": ["query", "value", "key"]}, "missing .*key.lora_A.weight"),
    "more modules": ({"modules_to_save": ["pooler", "intermediate"]}, "missing .*intermediate.dense.weight"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_configs_that_are_refused(what, good, tmp_path):
    fields, message = CONFIGS[what]
    assert_refused(altered(good, tmp_path / "x", fields), (ConfigError, MismatchError), message)


def dropped(part):
    return lambda old: {name: x for name, x in old.items() if part not in name}


def replaced(part, change):
    return lambda old: {name: change(x) if part in name else x for name, x in old.items()}


ROOT = "base_model.model.bert.encoder.layer.0.attention"
TENSORS = {
    "half a LoRA": (dropped("layer.1.attention.self.query.lora_B"), "lora_A or lora_B is missing"),
    "a layer is missing": (dropped("layer.1.attention.self.query"), r"missing encoder.layer.1|missing bert.encoder"),
    "no head": (dropped("classifier"), "missing|trained"),
    "a head for other labels": (replaced("classifier.weight", lambda x: x[:2].clone()), "labels=..."),
    "not finite": (replaced("lora_B", lambda x: x / 0), "NaN or infinite"),
    "whole numbers": (replaced("lora_A", lambda x: x.to(torch.int64)), "I64 in the file"),
    "another shape": (replaced("lora_A", lambda x: x[:, :5].clone()), r"lora_A is \[3, 5\]"),
    "another dimension": (replaced("lora_A", lambda x: x[0].clone()), r"lora_A is \[21\]"),
    "unknown": (
        lambda old: {
            **old,
            f"{ROOT}.self.twist.lora_A.weight": torch.ones(1),
            f"{ROOT}.self.twist.lora_B.weight": torch.ones(1),
        },
        "no such tensor",
    ),
    "of DoRA": (lambda old: {**old, f"{ROOT}.self.query.lora_magnitude_vector": torch.ones(21)}, "no such tensor"),
    "of a table": (
        lambda old: {
            **old,
            "base_model.model.bert.embeddings.word_embeddings.lora_A.weight": torch.ones(3, 21),
            "base_model.model.bert.embeddings.word_embeddings.lora_B.weight": torch.ones(53, 3),
        },
        "beside a table",
    ),
    "nothing": (lambda old: dropped("lora")(old), "expected some LoRAs, and one of each"),
    "other names": (
        lambda old: {f"x.{name}": x for name, x in old.items()},
        "expected names that begin with base_model",
    ),
}


@pytest.mark.parametrize("what", TENSORS)
def test_tensors_that_are_refused(what, good, tmp_path):
    tensors, message = TENSORS[what]
    assert_refused(altered(good, tmp_path / "x", tensors=tensors), (ConfigError, MismatchError), message)


def test_files_that_are_refused(good, tmp_path):
    folder = altered(good, tmp_path / "x")
    weights = folder / "adapter_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    assert_refused(folder, CorruptFileError, "adapter_model.safetensors")
    weights.rename(folder / "adapter_model.bin")
    assert_refused(folder, NotFoundError, r"no adapter_model.safetensors .*adapter_model.bin")
    (folder / "adapter_config.json").write_text("[1, 2")
    assert_refused(folder, ConfigError, "not JSON")
    (folder / "adapter_config.json").unlink()
    assert_refused(folder, NotFoundError, "no adapter_config.json")


def test_an_adapter_of_another_model(good, tmp_path):
    assert_refused(good, MismatchError, "no such tensor in this model", Case("distilbert", "sequence-classification"))
    assert_refused(good, MismatchError, "no such tensor|labels", Case("bert", "question-answering"))


def test_not_twice(good):
    model = mt.load(checkpoint(BERT))
    load_adapter(model.transformer, model.family, good)
    with pytest.raises(ConfigError, match="has an adapter already; remove_adapters"):
        load_adapter(model.transformer, model.family, good)


def test_other_kinds_of_peft(tmp_path):
    config = IA3Config(target_modules=["key"], feedforward_modules=[])
    get_peft_model(theirs(BERT), config).save_pretrained(tmp_path)
    assert_refused(tmp_path, ConfigError, "peft_type: got 'IA3'")


def test_a_tied_matrix_that_was_trained_apart(tmp_path):
    case = Case("gpt2", "causal-lm")
    peft = made_by_peft(case, tmp_path / "same", target_modules=["c_attn"])
    path = tmp_path / "same" / "adapter_model.safetensors"
    table = peft.get_base_model().transformer.wte.weight.detach().clone()
    name = "base_model.model.lm_head.weight"
    save_file({**load_file(path), name: table + 1}, path)
    assert_refused(
        tmp_path / "same", MismatchError, "trained apart from embed.tokens.weight.*tie_word_embeddings", case
    )
    save_file({**load_file(path), name: table}, path)
    model = loaded(case)
    load_adapter(model.transformer, model.family, tmp_path / "same")
    assert_equal_outputs(case, model, peft)


@pytest.mark.parametrize("case", [Case("bert", "masked-lm", "odd"), Case("gpt2", "causal-lm", "odd")], ids=str)
def test_an_untied_head_that_was_trained(case, tmp_path):
    assert case in CASES
    head = "cls" if case.family == "bert" else "lm_head"
    peft = made_by_peft(case, tmp_path, modules_to_save=[head])
    model = loaded(case)
    given_names = load_adapter(model.transformer, model.family, tmp_path)
    assert "head.lm.weight" in given_names
    assert_equal_outputs(case, model, peft)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
FIELDS = st.sampled_from(list(LoraConfig(target_modules=["q"]).to_dict()))


@pytest.fixture(scope="module")
def reused():
    return mt.load(checkpoint(BERT))


@given(fields=st.dictionaries(FIELDS, JSON, min_size=1, max_size=3))
def test_any_config_loads_or_is_refused(fields, good, reused, tmp_path_factory):
    folder = altered(good, tmp_path_factory.mktemp("fuzz") / "x", fields)
    try:
        load_adapter(reused.transformer, reused.family, folder)
        loads = True
    except MiniTransformerError:
        loads = False
    assert bool(beside(reused.transformer)) == loads
    remove_adapters(reused.transformer)
