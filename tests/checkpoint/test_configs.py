"""config.json: what it must say, what is refused, and that no value in it ends in anything but an error of ours."""

import functools
import json
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import IMAGES, Case, checkpoint, rewritten

import minitransformer as mt
from minitransformer.errors import ConfigError, MiniTransformerError, NotFoundError
from minitransformer.families import FAMILIES
from minitransformer.families.fields import NOWHERE

ALL = ", ".join(FAMILIES)

# The sizes that no family may guess.
BERT_NEEDS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
BART_NEEDS = (
    "vocab_size",
    "d_model",
    "max_position_embeddings",
    *(f"{stack}_{what}" for stack in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")),
)
NEEDED = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "llama", "mistral", "qwen2", "qwen3"), BERT_NEEDS),
    **dict.fromkeys(("albert", "electra"), (*BERT_NEEDS, "embedding_size")),
    **dict.fromkeys(("openai-gpt", "gpt2"), ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions")),
    "distilbert": ("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim", "max_position_embeddings"),
    "t5": ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"),
    **dict.fromkeys(("bart", "marian"), BART_NEEDS),
    **dict.fromkeys(("vit", "deit"), ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")),
}


@functools.cache
def config_text(case):
    return (checkpoint(case) / "config.json").read_text()


def raw_config(case):
    return json.loads(config_text(case))


@pytest.fixture
def load_config(tmp_path):
    """Load a folder with this config.json and no weights at all: a config is judged before they are looked for."""

    def load(config, **options):
        (tmp_path / "config.json").write_text(json.dumps(config))
        return mt.load(tmp_path, **options)

    return load


@pytest.mark.parametrize(
    "case", [Case(family, head) for family in FAMILIES for head in FAMILIES[family].classes], ids=str
)
def test_the_configs_that_are_right(case, load_config):
    """Or else the tests below would show nothing."""
    with pytest.raises(NotFoundError, match=r"no model\.safetensors"):
        load_config(raw_config(case))


REFUSED = [  # what cannot be a value at all; which values change the numbers, tests/families/test_refusals.py knows
    ("bert", "hidden_size", "21"),
    ("bert", "hidden_size", 21.0),
    ("bert", "hidden_size", True),
    ("bert", "hidden_size", 0),
    ("bert", "num_hidden_layers", -1),
    ("bert", "type_vocab_size", 0),
    ("bert", "layer_norm_eps", 0),
    ("bert", "layer_norm_eps", "1e-5"),
    ("bert", "layer_norm_eps", 10**400),
    ("bert", "vocab_size", 10**30),
    ("bert", "hidden_dropout_prob", 1.5),
    ("bert", "attention_probs_dropout_prob", -0.1),
    ("roberta", "pad_token_id", 18),  # as many positions as there are
    ("albert", "num_hidden_groups", 0),
    ("albert", "num_hidden_layers", 10**8),
    ("gpt2", "n_embd", 10**12),
    ("gpt2", "scale_attn_weights", "yes"),
    ("gpt2", "embd_pdrop", 1),
    ("gpt2", "attn_pdrop", [0.1]),
    ("llama", "rope_theta", 0),
    ("llama", "rope_parameters", {"rope_theta": "x"}),
    ("llama", "rms_norm_eps", -1),
    ("t5", "relative_attention_num_buckets", 3),
    ("t5", "relative_attention_max_distance", 4),
    ("t5", "d_kv", 0),
    ("bart", "scale_embedding", 1),
    ("marian", "max_position_embeddings", 0),
    ("vit", "image_size", [15, 15, 15]),
    ("vit", "image_size", 3),
    ("vit", "patch_size", [4]),
    ("deit", "patch_size", 0),
]


@pytest.mark.parametrize(("family", "field", "value"), REFUSED, ids=lambda x: str(x)[:24])
def test_refused(family, field, value, load_config):
    """The value may have become another name of ours (hidden_size is d_model), but it is always told."""
    config = {**raw_config(Case(family, "base")), field: value}
    if field == "rope_theta":
        del config["rope_parameters"]
    with pytest.raises(ConfigError, match=r"got .*, expected ") as raised:
        load_config(config)
    ours = {"num_hidden_groups": "0 groups", "rope_parameters": "'x'"}
    if (family, field) == ("albert", "num_hidden_layers"):
        ours[field] = "100000000 layers"
    if (family, field) != ("roberta", "pad_token_id"):  # 19 is the position of the first token
        assert ours.get(field, repr(value)[:100]) in str(raised.value)
    assert "Traceback" not in str(raised.value)


ABSURD = [
    ("bert", "masked-lm", {"vocab_size": 2**28}),
    ("bert", "base", {"hidden_size": 2**28, "intermediate_size": 2**28, "num_attention_heads": 1, "vocab_size": 2**28}),
    ("bert", "base", {"num_hidden_layers": 10**8}),
    ("albert", "base", {"num_hidden_layers": 10**8, "num_hidden_groups": 10**8}),
    ("albert", "base", {"num_hidden_layers": 1000, "num_hidden_groups": 1000}),
    ("gpt2", "base", {"n_layer": 40}),
    ("llama", "base", {"num_attention_heads": 2**28, "head_dim": 2**28, "hidden_size": 2**28}),
    ("llama", "base", {"num_hidden_layers": 10**8, "layer_types": ["full_attention"]}),
    ("t5", "base", {"num_heads": 2**28, "d_kv": 2**28, "d_model": 2**28}),
    ("t5", "base", {"relative_attention_num_buckets": 2**28, "relative_attention_max_distance": 2**28}),
    ("bart", "base", {"encoder_layers": 10**8}),
    ("bart", "base", {"encoder_layers": 50, "decoder_layers": 50}),
    ("marian", "base", {"max_position_embeddings": 2**28}),
    ("vit", "base", {"image_size": 10**6}),
    ("vit", "base", {"image_size": 2**28, "patch_size": 2**28, "num_channels": 2**28}),
    ("deit", "base", {"image_size": [2**28, 2**28], "patch_size": 1}),
]


@pytest.mark.parametrize(("family", "head", "changes"), ABSURD, ids=str)
def test_absurd_sizes_are_refused_at_once(family, head, changes):
    """Nothing of such a size is ever built, however large the number."""
    folder = rewritten(checkpoint(Case(family, head)), config=dict.fromkeys(FAMILIES[family].synonyms))
    began = time.process_time()
    with pytest.raises(MiniTransformerError):
        mt.load(folder, config=changes)
    assert time.process_time() - began < 3


def test_a_decoder_is_a_causal_lm(load_config):
    config = raw_config(Case("bert", "causal-lm", "decoder"))
    with pytest.raises(NotFoundError, match=r"no model\.safetensors"):
        load_config(config)
    with pytest.raises(ConfigError, match="is_decoder: got True"):
        load_config(config, head="masked-lm")


@pytest.mark.parametrize(("family", "field"), [(family, field) for family in NEEDED for field in NEEDED[family]])
def test_what_must_be_there(family, field, load_config):
    """No guess: the published models disagree on what is usual."""
    synonyms = FAMILIES[family].synonyms
    config = {name: x for name, x in raw_config(Case(family, "base")).items() if name not in synonyms}
    for missing in ({name: x for name, x in config.items() if name != field}, {**config, field: None}):
        with pytest.raises(ConfigError, match=rf"{field} is missing, .*load\(name, config={{'{field}'"):
            load_config(missing)


@pytest.mark.parametrize("value", ["gpt_neox", 5, [], {"a": 1}])
def test_unknown_families(value, load_config):
    with pytest.raises(ConfigError, match=rf"model_type: got .*, expected one of {ALL}"):
        load_config({"model_type": value})


def test_a_family_that_is_not_named(load_config):
    with pytest.raises(ConfigError, match=rf"model_type is missing, expected one of {ALL}; .*config={{'model_type'"):
        load_config({})


@pytest.mark.parametrize("labels", [["a", "b", "c"], {}, "abc"])
def test_labels_that_cannot_be_counted(labels, load_config):
    config = {**raw_config(Case("bert", "sequence-classification")), "id2label": labels}
    with pytest.raises(ConfigError, match=r"id2label: got .*, expected an object"):
        load_config(config)


def test_labels_without_an_order():
    model = mt.load(checkpoint(Case("bert", "sequence-classification")), config={"id2label": {"a": 1, "b": 2, "c": 3}})
    with pytest.raises(ConfigError, match=r"id2label: got the keys \['a', 'b', 'c'\], expected numbers"):
        model.labels  # noqa: B018


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 64)
    | st.sampled_from([2**28, 2**31, 2**63, 10**25, -(10**25), 1e308, -0.0, 5e-324, float("nan"), float("inf")])
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["gelu", "relu", "gated-silu", "absolute", "float16", "default", "full_attention", *FAMILIES])
    | st.sampled_from([name for family in FAMILIES.values() for name in family.classes.values()]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.sampled_from(["rope_type", "rope_theta", "0"]), inner, max_size=3)
    ),
    max_leaves=4,
)
HEADS = sorted({head for family in FAMILIES.values() for head in family.classes})
FUZZED = [
    Case("bert", "sequence-classification"),
    Case("roberta", "masked-lm"),
    Case("xlm-roberta", "multiple-choice"),
    Case("distilbert", "question-answering"),
    Case("albert", "pretraining"),
    Case("electra", "multiple-choice"),
    Case("openai-gpt", "double-heads"),
    Case("gpt2", "causal-lm"),
    Case("llama", "sequence-classification"),
    Case("mistral", "causal-lm"),
    Case("qwen2", "token-classification"),
    Case("qwen3", "causal-lm"),
    Case("t5", "seq2seq-lm"),
    Case("bart", "sequence-classification"),
    Case("marian", "seq2seq-lm"),
    Case("vit", "image-classification"),
    Case("deit", "image-classification-with-teacher"),
]


@functools.cache
def edits(case):
    """Some fields with other values, among all that the config has or might have, and some to be left out."""
    family = FAMILIES[case.family]
    more = {"num_labels", "id2label", "problem_type", "rope_scaling", "rope_theta", "layer_types", "sliding_window"}
    names = sorted(raw_config(case).keys() | family.refuses.keys() | family.synonyms.keys() | NOWHERE.keys() | more)
    field = st.sampled_from(names)
    return st.tuples(st.dictionaries(field | st.text(max_size=6), JSON, max_size=4), st.sets(field, max_size=2))


@pytest.fixture(scope="module")
def folders():
    """For each family a folder with weights of its own, and a config.json to be written over."""
    with tempfile.TemporaryDirectory() as home:
        found = {}
        for case in FUZZED:
            found[case] = Path(home) / case.family
            mt.load(checkpoint(case)).save(found[case])
        yield found


@given(data=st.data())
@settings(max_examples=500)
def test_any_config_loads_or_is_refused(folders, data):
    try_any_config(folders, data)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=20_000, derandomize=False)
def test_any_of_many_configs_loads_or_is_refused(folders, data):
    try_any_config(folders, data)


def try_any_config(folders, data):
    case = data.draw(st.sampled_from(FUZZED))
    changes, dropped = data.draw(edits(case))
    config = {name: x for name, x in {**raw_config(case), **changes}.items() if name not in dropped}
    (folders[case] / "config.json").write_text(json.dumps(config))
    saves = data.draw(st.integers(0, 19)) == 0  # it is slow, because it makes sure of the disk
    options = data.draw(st.fixed_dictionaries({}, optional={"head": st.sampled_from(HEADS), "new_head": st.just(True)}))
    began = time.process_time()
    try:
        model = mt.load(folders[case], **options)
        assert str(model.report)
        if "classification" in model.report.head:
            assert model.labels
        run_once(model, case)
        if saves:
            model.save(folders[case].parent / "saved")
    except MiniTransformerError:
        pass  # any other exception fails the test
    assert time.process_time() - began < 10


def run_once(model, case):
    """Two tokens, or one image."""
    if case.family in IMAGES:
        embed = model.transformer.config.embed
        model(pixel_values=torch.zeros(1, embed.channels, *embed.image_size))
    elif model.transformer.config.encoder and model.transformer.config.decoder:
        model(torch.tensor([[5, 2]]), decoder_input_ids=torch.tensor([[5, 2]]))
    else:
        model(torch.tensor([[1, 2]]))
