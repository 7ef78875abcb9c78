"""Every field of every config is read, or refused by name when it would change the numbers, or has no effect on them.

The list is held against the fields that transformers' config classes have: a new one fails here by its name.
"""

import dataclasses
import functools
import json

import pytest
import torch
from config_fields import NO_EFFECT, READ, REFUSED
from oracle import CONFIGS, IMAGES, Case, assert_same, checkpoint, make_batch, rewritten, theirs
from small_families import SIZES

import minitransformer as mt
from minitransformer.errors import ConfigError
from minitransformer.families import FAMILIES

# What goes with such a value, because transformers repeats one field in another, or because sizes must fit.
BESIDES = {
    ("gpt2", "n_embd"): {},
    ("t5", "feed_forward_proj"): {"dense_act_fn": "relu", "is_gated_act": True},
    ("t5", "tie_word_embeddings"): {"scale_decoder_outputs": None},
    ("qwen2", "num_hidden_layers"): {"layer_types": None},
    ("qwen3", "num_hidden_layers"): {"layer_types": None},
    ("vit", "hidden_size"): {"pooler_output_size": 40},
    ("deit", "hidden_size"): {"pooler_output_size": 40},
    ("llama", "head_dim"): {},
}
# What chooses the family and the head.
CHOOSES = {"model_type", "architectures"}
# What a field is called where our own config refuses its value.
OURS = {"sliding_window": "window", "num_decoder_layers": "layers", "n_inner": "d_ffn", "decoder_vocab_size": "vocab"}
OF_SOME_HEADS = {"problem_type", "eos_token_id", "is_decoder", "decoder_start_token_id"}


@functools.cache
def raw_text(family):
    config = CONFIGS[family](**SIZES[family])
    return config.to_json_string(use_diff=False)


def raw_of(family, **changes):
    """A small model's config.json with every field in it; None: the field is absent."""
    fields = {**json.loads(raw_text(family)), **changes}
    removed = {name for name, value in changes.items() if value is None}
    return {name: value for name, value in fields.items() if name not in removed}


def translated(family, raw):
    """Our config, for each head."""
    return {head: FAMILIES[family].translate(raw, head) for head in FAMILIES[family].classes}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_is_in_the_list(family):
    theirs_have = {field.name for field in dataclasses.fields(CONFIGS[family])}
    theirs_have |= CONFIGS[family]().to_dict().keys()
    ours = READ[family].keys() | REFUSED[family].keys() | NO_EFFECT[family].keys() | CHOOSES
    assert not theirs_have - ours, f"what becomes of {theirs_have - ours} in {family}?"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_changes_our_config(family):
    for field, value in READ[family].items():
        besides = BESIDES.get((family, field), {})
        heads = ["causal-lm"] if field == "is_decoder" else FAMILIES[family].classes  # refused by all other heads
        before, after = (
            [FAMILIES[family].translate(raw, head) for head in heads]
            for raw in (raw_of(family), raw_of(family, **besides, **{field: value}))
        )
        assert before != after, field


@pytest.mark.parametrize(("family", "field"), [(family, field) for family in FAMILIES for field in REFUSED[family]])
def test_what_is_refused_is_named(family, field):
    """By its own name and with its value; by every head, unless only some read it."""
    for value in REFUSED[family][field]:
        messages = refusals(family, {**raw_of(family), field: value})
        assert messages, f"{field}={value!r} is taken by every head"
        assert any(field in message or OURS.get(field, field) in message for message in messages), messages
        shown = value.removeprefix("gated-") if field == "feed_forward_proj" and isinstance(value, str) else value
        assert any(repr(shown) in message for message in messages), messages
        ways_out = ("expected", "remove", "say which is right")
        assert all(any(words in message for words in ways_out) for message in messages), messages
        assert field in OF_SOME_HEADS or len(messages) == len(FAMILIES[family].classes)


def refusals(family, raw):
    """What each head that refuses this config says."""
    messages = []
    for head in FAMILIES[family].classes:
        try:
            FAMILIES[family].translate(raw, head)
        except ConfigError as error:
            messages.append(str(error))
    return messages


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_refused_is_not_a_default(family):
    """transformers' own defaults, and a model of ours, are taken as they are."""
    assert translated(family, raw_of(family))
    default = json.loads(CONFIGS[family]().to_json_string(use_diff=False))
    assert translated(family, default)
    brief = json.loads(CONFIGS[family](**SIZES[family]).to_json_string())
    assert translated(family, brief) == translated(family, raw_of(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_null_means_absent_or_is_refused(family):
    """Where transformers takes null for a field, it means the same here."""
    for field in raw_of(family):
        raw = {**raw_of(family), field: None}
        try:
            expected = json.loads(CONFIGS[family](**raw).to_json_string(use_diff=False))
        except Exception:
            continue
        for head in FAMILIES[family].classes:
            try:
                ours = FAMILIES[family].translate(raw, head)
            except ConfigError:
                continue
            without = {n: value for n, value in expected.items() if value is not None or n == "sliding_window"}
            assert spelt_out(ours) == spelt_out(FAMILIES[family].translate(without, head)), field


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_null_heads_of_keys_are_as_many_as_of_queries(family):
    """Not as many as where nothing is said."""
    decoder = FAMILIES[family].translate({**raw_of(family), "num_key_value_heads": None}, "base").decoder
    assert (decoder.kv_heads or decoder.heads) == decoder.heads == 4


def spelt_out(config):
    """With the widths that None stands for."""
    stacks = {name: getattr(config, name) for name in ("encoder", "decoder")}
    return dataclasses.replace(
        config,
        **{
            name: dataclasses.replace(stack, head_width=stack.d_head, kv_heads=stack.kv_heads or stack.heads)
            for name, stack in stacks.items()
            if stack is not None
        },
    )


SHOWN = {
    family: next(head for head in FAMILIES[family].classes if head not in ("base", "encoder", "pretraining"))
    for family in FAMILIES
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_has_no_effect_has_none(family):
    """On our config; and on transformers' numbers, all such fields at once."""
    changes = {field: value for field, (value, _) in NO_EFFECT[family].items()}
    for field, value in changes.items():
        raw = raw_of(family)
        raw[field] = value
        assert translated(family, raw) == translated(family, raw_of(family)), field
    for head in ("base", SHOWN[family]):
        case = Case(family, head)
        folder = rewritten(checkpoint(case), config={**changes, "label2id": None})
        batch = make_batch(case, "right", lengths=(9, 3, 6))
        with torch.no_grad():
            plain, changed = theirs(case)(**batch), theirs(case, folder)(**batch)
            assert_same(changed, plain, batch, atol=1e-6, rtol=1e-6)
            assert_same(mt.load(folder)(**batch), plain, batch)


# Read fields whose values no variant of the small models changes: a case, the changes, and what the batch must have.
DIFFERENT = [
    (Case("roberta", "base"), {"pad_token_id": 5}),
    (Case("xlm-roberta", "masked-lm"), {"pad_token_id": 0}),
    (Case("gpt2", "sequence-classification"), {"pad_token_id": 5}),
    (Case("openai-gpt", "sequence-classification"), {"pad_token_id": 5}),
    (Case("llama", "sequence-classification"), {"pad_token_id": 5}),
    (Case("qwen3", "sequence-classification"), {"pad_token_id": 5}),
    (Case("t5", "sequence-classification"), {"eos_token_id": 7}),
    (Case("t5", "sequence-classification"), {"decoder_start_token_id": 9, "pad_token_id": 5}),
    (Case("bart", "sequence-classification"), {"eos_token_id": 7, "decoder_start_token_id": 9}),
    (Case("bart", "question-answering"), {"decoder_start_token_id": 9, "pad_token_id": 5}),
    (Case("electra", "multiple-choice"), {"summary_activation": "tanh"}),
    (Case("electra", "pretraining"), {"hidden_act": "silu"}),
    (Case("roberta", "masked-lm"), {"hidden_act": "silu"}),  # its head does not read it
    (Case("distilbert", "multiple-choice"), {"activation": "gelu_new"}),
    (Case("albert", "pretraining"), {"hidden_act": "gelu"}),
    (Case("albert", "base"), {"num_hidden_layers": 5, "num_hidden_groups": 3}),  # groups of unequal size
    (Case("bart", "base"), {"d_model": 12, "encoder_attention_heads": 4, "decoder_attention_heads": 6}),
    (Case("marian", "base"), {"d_model": 30}),
    (Case("t5", "base"), {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}),
    (Case("llama", "base"), {"num_key_value_heads": None, "head_dim": None}),
    (Case("qwen2", "base"), {"num_key_value_heads": 4, "head_dim": 10}),
    (Case("mistral", "base"), {"head_dim": 4, "sliding_window": 1}),
    (Case("vit", "image-classification"), {"image_size": [8, 15], "patch_size": [2, 7], "num_channels": 2}),
]


@pytest.mark.parametrize(("case", "changes"), DIFFERENT, ids=str)
def test_a_read_field_gives_the_same_numbers(case, changes):
    folder = checkpoint(case, **{name: tuple(x) if isinstance(x, list) else x for name, x in changes.items()})
    if case.family in IMAGES:
        batch = {"pixel_values": torch.randn(2, changes["num_channels"], *changes["image_size"])}
    else:
        batch = make_batch(case, "right")
        ids, real = batch["input_ids"], batch["attention_mask"].bool()
        ids[ids == changes.get("pad_token_id")] = 6
        ids[~real] = changes.get("pad_token_id", SIZES[case.family].get("pad_token_id", 0))
        if "eos_token_id" in changes:
            ids[ids == changes["eos_token_id"]] = 6
            ids[torch.arange(3), real.sum(-1) - 1] = changes["eos_token_id"]
    with torch.no_grad():
        ours, expected = mt.load(folder)(**batch), theirs(case, folder)(**batch)
        assert_same(ours, expected, batch)


OLDER = [
    (Case("llama", "base"), {"rope_parameters": None, "rope_theta": 300.0}),
    (Case("llama", "base"), {"rope_parameters": None, "rope_scaling": None}),
    (Case("llama", "base"), {"rope_parameters": None, "rope_theta": 300.0, "rope_scaling": {"type": "default"}}),
    (Case("llama", "base"), {"rope_parameters": {"rope_type": "default"}, "rope_theta": 300.0}),
    (Case("llama", "base"), {"rope_parameters": {"rope_theta": 200.0}, "rope_theta": 300.0}),
    (Case("qwen3", "base"), {"rope_parameters": None, "rope_theta": 300.0, "layer_types": None}),
    (Case("gpt2", "base"), {"n_layer": None, "num_hidden_layers": 3, "n_embd": None, "hidden_size": 15}),
    (Case("bart", "base"), {"encoder_layers": None, "num_hidden_layers": 3}),
    (Case("t5", "base"), {"d_kv": None, "head_dim": 5, "dense_act_fn": None, "is_gated_act": None}),
    (Case("distilbert", "base"), {"dim": None, "hidden_size": 21}),
    (Case("marian", "base"), {"decoder_vocab_size": 0}),
    (Case("vit", "base"), {"pooler_output_size": None, "patch_size": [4, 4]}),
]


@pytest.mark.parametrize(("case", "changes"), OLDER, ids=str)
def test_older_spellings_of_a_field(case, changes):
    folder = rewritten(checkpoint(case), config=changes)
    batch = make_batch(case, "right")
    with torch.no_grad():
        assert_same(mt.load(folder)(**batch), theirs(case, folder)(**batch), batch)


CONTRADICTIONS = [
    ("bert", {"num_labels": 5, "id2label": {"0": "a", "1": "b"}}, "num_labels: got 5, but id2label names 2"),
    ("bart", {"num_hidden_layers": 5}, "encoder_layers: got 3, but num_hidden_layers, another name for it, is 5"),
    ("llama", {"rope_scaling": {"type": "default"}}, "rope_scaling: got .*, but rope_parameters is .*remove one"),
    ("t5", {"is_gated_act": True}, "is_gated_act: got True, expected False or None"),
]


@pytest.mark.parametrize(("family", "changes", "words"), CONTRADICTIONS, ids=str)
def test_contradictions_are_told(family, changes, words):
    """transformers takes one of the two, and not always the one that was meant."""
    for head in FAMILIES[family].classes:
        with pytest.raises(ConfigError, match=words):
            FAMILIES[family].translate(raw_of(family, **changes), head)


CLASSIFIERS = [
    (name, head)
    for name, family in FAMILIES.items()
    for head in family.classes
    if head in ("sequence-classification", "image-classification")
]


@pytest.mark.parametrize(("family", "head"), CLASSIFIERS)
@pytest.mark.parametrize("labels", [1, 3])
def test_the_kind_of_problem(family, head, labels):
    """It says which loss there is: ours goes by the labels, so what says otherwise is refused."""
    fits = {"regression"} if labels == 1 else {"single_label_classification", "multi_label_classification"}
    names = {str(i): f"L{i}" for i in range(labels)}
    for kind in ("regression", "single_label_classification", "multi_label_classification"):
        raw = raw_of(family, id2label=names, problem_type=kind)
        if kind in fits:
            assert FAMILIES[family].translate(raw, head)
        else:
            with pytest.raises(ConfigError, match=rf"problem_type: got '{kind}', expected "):
                FAMILIES[family].translate(raw, head)


def test_the_kind_of_problem_is_the_loss():
    case = Case("bert", "sequence-classification")
    batch = make_batch(case, "right")
    for kind, labels in (
        ("single_label_classification", torch.tensor([2, 0, 1])),
        ("multi_label_classification", torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 0]])),
    ):
        folder = rewritten(checkpoint(case), config={"problem_type": kind})
        with torch.no_grad():
            ours, expected = (
                mt.load(folder)(**batch, labels=labels).loss,
                theirs(case, folder)(**batch, labels=labels).loss,
            )
        torch.testing.assert_close(ours, expected)
