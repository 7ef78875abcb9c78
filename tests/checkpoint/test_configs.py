"""config.json: what it must say, what is refused, and that no value in it ends in anything but an error of ours."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import CASES, Case, checkpoint

import minitransformer as mt
from minitransformer.errors import ConfigError, MiniTransformerError, NotFoundError
from minitransformer.families import FAMILIES

NEEDED = {
    "bert": (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
    ),
    "gpt2": ("vocab_size", "n_embd", "n_layer", "n_head", "n_positions"),
}


def raw_config(case):
    return json.loads((checkpoint(case) / "config.json").read_text())


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


REFUSED = {
    "both": [
        ("quantization_config", {"bits": 4}),
        ("auto_map", {"AutoModel": "code.Model"}),
        ("pruned_heads", {"0": [1]}),
        ("add_cross_attention", True),
        ("is_encoder_decoder", True),
        ("cross_attention_hidden_size", 5),
    ],
    "bert": [
        ("position_embedding_type", "relative_key"),
        ("position_embedding_type", "relative_key_query"),
        ("is_decoder", True),
        ("hidden_act", "quick_gelu"),
        ("hidden_act", 5),
        ("hidden_size", "21"),
        ("hidden_size", 21.0),
        ("hidden_size", True),
        ("hidden_size", 0),
        ("num_hidden_layers", -1),
        ("type_vocab_size", 0),
        ("layer_norm_eps", 0),
        ("layer_norm_eps", "1e-5"),
        ("layer_norm_eps", 10**400),
        ("vocab_size", 10**30),
        ("hidden_dropout_prob", 1.5),
        ("attention_probs_dropout_prob", -0.1),
    ],
    "gpt2": [
        ("scale_attn_by_inverse_layer_idx", True),
        ("activation_function", "mish"),
        ("n_inner", 0.5),
        ("n_embd", 10**12),
        ("scale_attn_weights", "yes"),
        ("embd_pdrop", 1),
        ("attn_pdrop", [0.1]),
    ],
}


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [(family, *pair) for family in FAMILIES for pair in REFUSED["both"] + REFUSED[family]],
    ids=lambda x: str(x)[:24],
)
def test_refused(family, field, value, load_config):
    # The value may have become another name of ours (hidden_size is d_model), but it is always told.
    ours = {"hidden_size": "d_model", "num_hidden_layers": "layers", "layer_norm_eps": "norm_eps"}
    with pytest.raises(ConfigError, match=rf"({field}|{ours.get(field, field)}|dropout): got .*, expected ") as raised:
        load_config({**raw_config(Case(family, "base")), field: value})
    assert repr(value)[:100] in str(raised.value)
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_saying_the_usual_is_not_refused(family, load_config):
    usual = {"quantization_config": None, "pruned_heads": {}, "add_cross_attention": False, "is_encoder_decoder": False}
    usual |= {"position_embedding_type": "absolute", "is_decoder": False} if family == "bert" else {}
    with pytest.raises(NotFoundError, match=r"no model\.safetensors"):
        load_config({**raw_config(Case(family, "base")), **usual})


def test_a_decoder_is_a_causal_lm(load_config):
    config = raw_config(Case("bert", "causal-lm", "decoder"))
    with pytest.raises(NotFoundError, match=r"no model\.safetensors"):
        load_config(config)
    with pytest.raises(ConfigError, match="is_decoder: got True"):
        load_config(config, head="masked-lm")


@pytest.mark.parametrize(("family", "field"), [(family, field) for family in NEEDED for field in NEEDED[family]])
def test_what_must_be_there(family, field, load_config):
    """No guess: the published models disagree on what is usual."""
    config = raw_config(Case(family, "base"))
    for missing in ({name: x for name, x in config.items() if name != field}, {**config, field: None}):
        with pytest.raises(ConfigError, match=rf"{field} is missing, .*load\(name, config={{'{field}'"):
            load_config(missing)


@pytest.mark.parametrize(("family", "heads"), [("bert", 4), ("gpt2", 7)])
def test_heads_that_do_not_divide(family, heads, load_config):
    field = {"bert": "num_attention_heads", "gpt2": "n_head"}[family]
    with pytest.raises(ConfigError, match=rf"heads: got {heads} heads for d_model \d+, expected a divisor"):
        load_config({**raw_config(Case(family, "base")), field: heads})


@pytest.mark.parametrize("value", ["t5", 5, [], {"a": 1}])
def test_unknown_families(value, load_config):
    with pytest.raises(ConfigError, match=r"model_type: got .*, expected one of bert, gpt2"):
        load_config({"model_type": value})


def test_a_family_that_is_not_named(load_config):
    with pytest.raises(ConfigError, match=r"model_type is missing, expected one of bert, gpt2; .*config={'model_type'"):
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
    | st.sampled_from(["gelu", "relu", "absolute", "float16", "BertModel", "GPT2LMHeadModel", "bert", "gpt2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
FIELDS = sorted({field for case in CASES for field in raw_config(case)} | {"num_labels", "id2label", "auto_map"})
HEADS = sorted({head for family in FAMILIES.values() for head in family.classes})


@pytest.fixture(scope="module")
def folders():
    """For each family a folder with weights of its own, and a config.json to be written over."""
    with tempfile.TemporaryDirectory() as home:
        found = {}
        for case in (Case("bert", "sequence-classification"), Case("gpt2", "causal-lm")):
            found[case] = Path(home) / case.family
            mt.load(checkpoint(case)).save(found[case])
        yield found


@given(data=st.data())
@settings(max_examples=150)
def test_any_config_loads_or_is_refused(folders, data):
    try_any_config(folders, data)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=5000)
def test_any_of_many_configs_loads_or_is_refused(folders, data):
    try_any_config(folders, data)


def try_any_config(folders, data):
    case = data.draw(st.sampled_from(sorted(folders, key=str)))
    changes = data.draw(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=6), JSON, max_size=4))
    dropped = data.draw(st.sets(st.sampled_from(FIELDS), max_size=1))
    config = {name: x for name, x in {**raw_config(case), **changes}.items() if name not in dropped}
    (folders[case] / "config.json").write_text(json.dumps(config))
    options = data.draw(st.fixed_dictionaries({}, optional={"head": st.sampled_from(HEADS), "new_head": st.just(True)}))
    try:
        model = mt.load(folders[case], **options)
        assert str(model.report)
        if "classification" in model.report.head:
            assert model.labels
        model(torch.tensor([[1, 2]]))
    except MiniTransformerError:
        pass  # any other exception fails the test
