"""What a file and a config of any family can disagree about: told by name and with both numbers."""

import json
import re

import pytest
import torch
from checkpoint_helpers import ONE_OF_EACH, without
from oracle import IMAGES, Case, checkpoint, make_batch, rewritten
from safetensors.torch import load_file

import minitransformer as mt
from minitransformer.errors import ConfigError, InputError, MiniTransformerError, MismatchError
from minitransformer.families import FAMILIES


def tensors_of(case):
    return load_file(checkpoint(case) / "model.safetensors")


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_missing_and_unexpected(case):
    """Any one tensor, the first and the last and one in the middle."""
    names = sorted(tensors_of(case))
    needed = [name for name in names if name != "final_logits_bias"]  # absent, it is zeros
    for name in (needed[0], needed[len(needed) // 2], needed[-1]):
        folder = rewritten(checkpoint(case), without(f"^{re.escape(name)}$"))
        with pytest.raises(MismatchError, match=rf"missing 1: {re.escape(name)} \(here \w+[\w.]+"):
            mt.load(folder)
    prefix = FAMILIES[case.family].prefix_of(case.head)
    folder = rewritten(checkpoint(case), lambda old: {**old, f"{prefix}adapter.weight": torch.ones(2)})
    with pytest.raises(MismatchError, match=rf"unexpected 1: {prefix}adapter.weight\n.*strict=False"):
        mt.load(folder)


SHAPES = [
    ("bert", {"type_vocab_size": 2}, r"token_type_embeddings.weight: \[3, 21\].*\[2, 21\].*2 is .*type_vocab_size"),
    ("roberta", {"max_position_embeddings": 30}, r"\[19, 21\].*\[30, 21\] .*30 is max_position_embeddings"),
    ("distilbert", {"hidden_dim": 40}, r"ffn.lin1.weight: \[37, 21\] in the file, \[40, 21\].*40 is hidden_dim"),
    ("albert", {"embedding_size": 14}, r"word_embeddings.weight: \[53, 13\].*\[53, 14\].*14 is embedding_size"),
    ("electra", {"embedding_size": 14}, r"embeddings_project.weight: \[21, 13\].*\[21, 14\].*14 is embedding_size"),
    ("openai-gpt", {"n_positions": 20}, r"positions_embed.weight: \[17, 15\].*\[20, 15\].*20 is n_positions"),
    ("gpt2", {"n_inner": 61}, r"mlp.c_fc.weight: \[15, 60\] in the file, \[15, 61\].*61 is n_inner"),
    (
        "llama",
        {"num_key_value_heads": 1},
        r"k_proj.weight: \[24, 24\].*\[6, 24\].*6 is .*made of num_key_value_heads and",
    ),
    ("mistral", {"num_key_value_heads": 2}, r"k_proj.weight: .*\[12, 24\].*12 is .*num_key_value_heads"),
    (
        "qwen2",
        {"head_dim": 8},
        r"q_proj.weight: \[24, 24\].*\[32, 24\].*32 is made of num_attention_heads and head_dim",
    ),
    ("qwen3", {"head_dim": 8}, r"q_norm.weight: \[10\] in the file, \[8\] by.*8 is head_dim"),
    ("t5", {"d_kv": 6}, r"SelfAttention.q.weight: \[20, 18\].*\[24, 18\].*24 is made of num_heads and d_kv"),
    (
        "t5",
        {"relative_attention_num_buckets": 9},
        r"relative_attention_bias.weight: \[8, 4\].*9 is relative_attention_num",
    ),
    (
        "t5",
        {"feed_forward_proj": "gated-relu", "is_gated_act": None},
        r"missing 10: .*wi_0.weight(.|\n)*unexpected 5: .*wi.weight",
    ),
    ("bart", {"max_position_embeddings": 30}, r"embed_positions.weight: \[23, 18\].*32 is made of max_position_embed"),
    ("bart", {"decoder_ffn_dim": 31}, r"decoder.layers.0.fc1.weight: \[29, 18\].*\[31, 18\].*31 is decoder_ffn_dim"),
    ("marian", {"vocab_size": 44, "decoder_vocab_size": 44}, r"final_logits_bias: \[1, 43\] in.*44 is .*vocab_size"),
    (
        "vit",
        {"image_size": 19},
        r"position_embeddings: \[1, 10, 20\].*\[1, 17, 20\].*17 is made of image_size and patch",
    ),
    ("vit", {"patch_size": [3, 4]}, r"projection.weight: \[20, 3, 4, 4\].*\[20, 3, 3, 4\].*3 is .*patch_size"),
    ("deit", {"num_channels": 1}, r"projection.weight: .*\[20, 1, 4, 4\] by the config .*1 is num_channels"),
]


@pytest.mark.parametrize(("family", "config", "words"), SHAPES, ids=str)
def test_another_size(family, config, words):
    """The message names the field of config.json that each side comes from."""
    case = next(case for case in ONE_OF_EACH if case.family == family)
    config = {"tie_word_embeddings": True, **config} if family not in IMAGES else config
    with pytest.raises(MismatchError, match=words):
        mt.load(checkpoint(case), config=config)


LABELLED = [
    Case(name, head) for name, family in FAMILIES.items() for head in family.classes if "classification" in head
]


@pytest.mark.parametrize("case", LABELLED, ids=str)
def test_another_number_of_labels(case):
    """It says so, and how to begin anew."""
    words = r"\[3, \d+\] in the file, \[5, \d+\] by the config \(5 is .*num_labels(.|\n)*new_head=True"
    with pytest.raises(MismatchError, match=words):
        mt.load(checkpoint(case), labels=5)
    model = mt.load(checkpoint(case), labels=5, new_head=True)
    assert {why for name, why in model.report.fresh.items() if name.startswith("head.")} == {"a new head was asked for"}
    batch = {name: x for name, x in make_batch(case, "none").items() if "mask" not in name}
    assert model(**batch).logits.shape[-1] == 5


# field of the config -> by how much, and what is said
LAYERS = [
    ("bert", "num_hidden_layers", r"config says {more} layers, the file has {few}"),
    ("roberta", "num_hidden_layers", r"config says {more} layers, the file has {few}"),
    ("distilbert", "n_layers", r"config says {more} layers, the file has {few}"),
    ("electra", "num_hidden_layers", r"config says {more} layers, the file has {few}"),
    ("albert", "num_hidden_groups", r"config says {more} layers, the file has {few}"),
    ("openai-gpt", "n_layer", r"config says {more} layers, the file has {few}"),
    ("gpt2", "n_layer", r"config says {more} layers, the file has {few}"),
    ("llama", "num_hidden_layers", r"config says {more} layers, the file has {few}"),
    ("t5", "num_layers", r"config says {more} encoder layers, the file has {few}"),
    ("t5", "num_decoder_layers", r"config says {more} decoder layers, the file has {few}"),
    ("bart", "encoder_layers", r"config says {more} encoder layers, the file has {few}"),
    ("bart", "decoder_layers", r"config says {more} decoder layers, the file has {few}"),
    ("marian", "decoder_layers", r"config says {more} decoder layers, the file has {few}"),
    ("vit", "num_hidden_layers", r"config says {more} layers, the file has {few}"),
    ("deit", "num_hidden_layers", r"config says {more} layers, the file has {few}"),
]


@pytest.mark.parametrize(("family", "field", "words"), LAYERS)
def test_another_number_of_layers(family, field, words):
    """More in the config than in the file, and fewer; of two stacks, the one it is about."""
    case = next(case for case in ONE_OF_EACH if case.family == family)
    raw = json.loads((checkpoint(case) / "config.json").read_text())
    raw.pop("layer_types", None)
    counts = [raw[field] + 1] + ([raw[field] - 1] if raw[field] > 1 else [])
    for count in counts:
        synonym = dict.fromkeys(FAMILIES[family].synonyms)
        with pytest.raises(MismatchError, match=words.format(more=count, few=raw[field])) as raised:
            mt.load(checkpoint(case), config={**synonym, field: count})
        assert str(raised.value).count(" layers, the file has ") == 1


def test_fewer_groups_than_in_the_file():
    case = Case("albert", "masked-lm", "odd")
    with pytest.raises(MismatchError, match=r"the config says 1 layers, the file has 2"):
        mt.load(checkpoint(case), config={"num_hidden_groups": 1})


LLAMA_KIN = {"llama", "mistral", "qwen2", "qwen3"}
# Nothing in a file tells these apart, only the config: both ways they load, as they do in transformers.
SAME = [{"roberta", "xlm-roberta"}] + [{one, other} for one in ("llama", "mistral") for other in LLAMA_KIN - {one}]
PAIRS = [(a, b) for a in ONE_OF_EACH for b in ONE_OF_EACH if a.family != b.family and {a.family, b.family} not in SAME]
BASES = [(Case(a.family, "base"), b) for a, b in PAIRS if b.family in ("bert", "gpt2", "t5", "vit")]


@pytest.mark.parametrize(("case", "other"), PAIRS + BASES, ids=str)
def test_the_config_of_another_family(case, other):
    """One clear error, which names the family of the file wherever its names are its own."""
    folder = checkpoint(case)
    raw = json.loads((checkpoint(other) / "config.json").read_text())
    copy = rewritten(folder)
    (copy / "config.json").write_text(json.dumps(raw))
    with pytest.raises(MiniTransformerError) as raised:
        mt.load(copy)
    message = str(raised.value)
    if "look like" in message:
        assert case.family in re.search("look like (.*): ", message)[1].split(" or ")
    else:
        # The names fit, as far as they go: one is the other with something more or less.
        assert re.search(r"missing|unexpected|shape of|expected", message)
        same = {"bert", "roberta", "xlm-roberta", "electra", "albert"}
        assert {case.family, other.family} <= same or {case.family, other.family} in (
            {"bart", "marian"},
            {"vit", "deit"},
            {"qwen2", "qwen3"},
        ), message


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_numbers_that_are_none(case):
    name = sorted(name for name, x in tensors_of(case).items() if x.ndim == 2 and name != "final_logits_bias")[-1]

    def change(old):
        old[name].view(-1)[3] = float("nan")
        return old

    with pytest.raises(MismatchError, match=rf"{re.escape(name)}: 1 of \d+ numbers are NaN or infinite"):
        mt.load(rewritten(checkpoint(case), change))


TEXTS = [case for case in ONE_OF_EACH if case.family not in IMAGES]


@pytest.mark.parametrize("case", TEXTS, ids=str)
def test_ids_out_of_range(case):
    model, batch = mt.load(checkpoint(case)), make_batch(case, "none")
    size = model.transformer.config.embed.vocab_size
    for name in batch.keys() & {"input_ids", "decoder_input_ids", "token_type_ids"}:
        for wrong in (-1, size):
            changed = {**batch, name: batch[name].clone()}
            changed[name].view(-1)[4] = wrong
            with pytest.raises(
                InputError,
                match=rf"{name.removeprefix('decoder_')}: got {wrong} at row 0, position 4, expected 0 to \d+",
            ):
                model(**changed)


MOST = {  # how many tokens each takes, by the small models' configs
    **dict.fromkeys(("bert", "distilbert", "albert", "electra"), 19),
    **dict.fromkeys(("roberta", "xlm-roberta"), 19 - 1 - 1),  # positions - pad_token_id - 1
    **dict.fromkeys(("openai-gpt", "gpt2"), 17),
    **dict.fromkeys(("bart", "marian"), 21),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), 31),
    "t5": None,
}


@pytest.mark.parametrize("case", TEXTS, ids=str)
def test_too_many_tokens(case):
    """A table has an end; rotary positions have none, but the training had; relative ones have none at all."""
    model, most = mt.load(checkpoint(case)), MOST[case.family]
    read_by_decoder = "decoder_input_ids" in make_batch(case, "none")

    def run(tokens, target=5):
        ids = torch.full((1, tokens), 5)
        model(ids, decoder_input_ids=torch.full((1, target), 5)) if read_by_decoder else model(ids)

    assert model.max_length == most
    run(most or 200)
    if most is None:
        run(200, target=200)
    elif case.family in ("llama", "mistral", "qwen2", "qwen3"):
        with pytest.warns(UserWarning, match=f"{most + 1} .*{most}"):
            run(most + 1)
    else:
        with pytest.raises(
            InputError, match=rf"got a sequence of {most + 1} tokens.*{most} positions.*truncation=True"
        ):
            run(most + 1)
        if read_by_decoder:
            with pytest.raises(InputError, match=rf"got a sequence of {most + 1} tokens.*{most} positions"):
                run(5, target=most + 1)


HEADS = [
    ("bert", {"num_attention_heads": 4}, r"heads: got 4 heads for d_model 21, expected a divisor"),
    ("roberta", {"num_attention_heads": 4}, r"heads: got 4 heads for d_model 21, expected a divisor"),
    ("distilbert", {"n_heads": 4}, r"heads: got 4 heads for d_model 21, expected a divisor"),
    ("albert", {"num_attention_heads": 4}, r"heads: got 4 heads for d_model 21, expected a divisor"),
    ("electra", {"num_attention_heads": 4}, r"heads: got 4 heads for d_model 21, expected a divisor"),
    ("openai-gpt", {"n_head": 7}, r"heads: got 7 heads for d_model 15, expected a divisor"),
    ("gpt2", {"n_head": 7}, r"heads: got 7 heads for d_model 15, expected a divisor"),
    ("llama", {"num_attention_heads": 5, "head_dim": None}, r"heads: got 5 heads for d_model 24, expected a divisor"),
    ("llama", {"num_key_value_heads": 3}, r"kv_heads: got 3 for 4 heads, expected a divisor"),
    ("mistral", {"num_key_value_heads": None}, r"kv_heads: got 8 for 4 heads, expected a divisor"),
    ("qwen3", {"head_dim": 9}, r"d_head: got 9, expected an even width for rotary positions"),
    ("bart", {"encoder_attention_heads": 4}, r"heads: got 4 heads for d_model 18, expected a divisor"),
    ("bart", {"decoder_attention_heads": 4}, r"heads: got 4 heads for d_model 18, expected a divisor"),
    ("marian", {"decoder_attention_heads": 5}, r"heads: got 5 heads for d_model 18, expected a divisor"),
    ("vit", {"num_attention_heads": 3}, r"heads: got 3 heads for d_model 20, expected a divisor"),
    ("t5", {"num_heads": 0}, r"heads: got 0, expected a whole number above 0"),
]


@pytest.mark.parametrize(("family", "config", "words"), HEADS, ids=str)
def test_heads_that_do_not_divide(family, config, words):
    case = next(case for case in ONE_OF_EACH if case.family == family)
    synonyms = dict.fromkeys(FAMILIES[family].synonyms)
    with pytest.raises(ConfigError, match=words):
        mt.load(rewritten(checkpoint(case), config={**synonyms, **config}))  # None: the field is absent
