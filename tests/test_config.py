"""Each rule of a config refuses what breaks it, and says which field."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minitransformer import config as c
from minitransformer.errors import ConfigError

EMBED = {"vocab_size": 9, "d_model": 8, "positions": "learned", "max_positions": 4}
STACK = {"layers": 2, "d_model": 8, "heads": 2, "d_ffn": 16, "norm_order": "post", "norm_eps": 1e-5} | {
    "final_norm": False,
    "activation": "relu",
    "causal": False,
}
PATCHES = {"d_model": 8, "image_size": (6, 8), "patch_size": (2, 3), "channels": 3, "special_tokens": 1}
CLASSIFIER = {"task": "sequence-classification", "num_labels": 2, "reads": "pooler"}
LM = {"task": "masked-lm", "tied": True}
VALID = {
    c.TokenEmbeddingConfig: EMBED,
    c.StackConfig: STACK,
    c.PatchEmbeddingConfig: PATCHES,
    c.RelativePositionsConfig: {"buckets": 8, "max_distance": 20},
    c.LanguageModelConfig: LM,
    c.PretrainingConfig: {"lm": c.LanguageModelConfig(**LM), "pairs": "next_sentence"},
    c.ReplacedTokensConfig: {"activation": "gelu"},
    c.ClassificationConfig: CLASSIFIER,
    c.DistilledClassificationConfig: {"num_labels": 2},
    c.TokenClassificationConfig: {"num_labels": 2},
    c.QuestionAnsweringConfig: {},
}
SIZES = [0, -1, 1.5, True, None, "8"]
PROBABILITIES = [-0.1, 1, 1.5, float("nan"), True, None, "0.1"]
NUMBERS = [0, -1.0, float("nan"), float("inf"), True, "1"]
BAD_FIELDS = [
    (c.TokenEmbeddingConfig, "vocab_size", SIZES),
    (c.TokenEmbeddingConfig, "d_model", SIZES),
    (c.TokenEmbeddingConfig, "max_positions", SIZES),
    (c.TokenEmbeddingConfig, "positions", ["rotary", 1]),
    (c.TokenEmbeddingConfig, "d_embed", [0, -1, 1.5, True, "8"]),
    (c.TokenEmbeddingConfig, "position_offset", [-1, 4, 5]),
    (c.TokenEmbeddingConfig, "token_types", ["some", 1]),
    (c.TokenEmbeddingConfig, "scale", [*NUMBERS, None]),
    (c.TokenEmbeddingConfig, "norm_eps", NUMBERS),
    (c.TokenEmbeddingConfig, "dropout", PROBABILITIES),
    (c.PatchEmbeddingConfig, "d_model", SIZES),
    (c.PatchEmbeddingConfig, "channels", SIZES),
    (c.PatchEmbeddingConfig, "special_tokens", [0, 3, None]),
    (c.PatchEmbeddingConfig, "dropout", PROBABILITIES),
    (c.RelativePositionsConfig, "buckets", [*SIZES, 1, 3]),
    (c.RelativePositionsConfig, "max_distance", [*SIZES, 3, 4]),
    (c.StackConfig, "layers", SIZES),
    (c.StackConfig, "d_model", SIZES),
    (c.StackConfig, "heads", [*SIZES, 3]),
    (c.StackConfig, "d_ffn", SIZES),
    (c.StackConfig, "kv_heads", [0, -1, 1.5, True, 3, 4]),
    (c.StackConfig, "head_width", [0, 1.5, True]),
    (c.StackConfig, "window", [0, 1.5, True, 2]),  # 2: only a causal stack has one
    (c.StackConfig, "rotary_theta", NUMBERS),
    (c.StackConfig, "norm", ["batch", None]),
    (c.StackConfig, "norm_order", ["both", None]),
    (c.StackConfig, "norm_eps", [*NUMBERS, None]),
    (c.StackConfig, "activation", ["swish", None]),
    (c.StackConfig, "score_scale", NUMBERS),
    (c.StackConfig, "dropout", PROBABILITIES),
    (c.StackConfig, "attention_dropout", PROBABILITIES),
    (c.StackConfig, "ffn_dropout", PROBABILITIES),
    (c.StackConfig, "activation_dropout", PROBABILITIES),
    (c.StackConfig, "final_dropout", PROBABILITIES),
    (c.LanguageModelConfig, "task", ["lm", None]),
    (c.LanguageModelConfig, "transform", ["swish", ""]),
    (c.LanguageModelConfig, "norm_eps", [*NUMBERS, None]),
    (c.LanguageModelConfig, "bias", [True, "free"]),
    (c.LanguageModelConfig, "scale", [*NUMBERS, None]),
    (c.PretrainingConfig, "pairs", ["both", None]),
    (c.PretrainingConfig, "num_labels", SIZES),
    (c.PretrainingConfig, "dropout", PROBABILITIES),
    (c.ReplacedTokensConfig, "activation", ["swish", None]),
    (c.ClassificationConfig, "task", ["token-classification", None]),
    (c.ClassificationConfig, "num_labels", SIZES),
    (c.ClassificationConfig, "reads", ["second_token", None]),
    (c.ClassificationConfig, "transform", ["swish", ""]),
    (c.ClassificationConfig, "dropout", PROBABILITIES),
    (c.ClassificationConfig, "transform_dropout", PROBABILITIES),
    (c.DistilledClassificationConfig, "num_labels", SIZES),
    (c.TokenClassificationConfig, "num_labels", SIZES),
    (c.TokenClassificationConfig, "dropout", PROBABILITIES),
    (c.QuestionAnsweringConfig, "dropout", PROBABILITIES),
]


@pytest.mark.parametrize(("kind", "field", "value"), [(k, f, v) for k, f, values in BAD_FIELDS for v in values])
def test_a_bad_field_is_named(kind, field, value):
    kind(**VALID[kind])
    with pytest.raises(ConfigError, match=f"{field}: got {value}|{field}: got {value!r}"):
        kind(**(VALID[kind] | {field: value}))


def test_learned_types_need_a_size():
    c.TokenEmbeddingConfig(**EMBED, token_types="learned", type_vocab_size=2)
    with pytest.raises(ConfigError, match="type_vocab_size: got 0"):
        c.TokenEmbeddingConfig(**EMBED, token_types="learned")


@pytest.mark.parametrize("positions", ["sinusoidal", "sinusoidal_halves", None])
def test_only_a_learned_table_has_an_end(positions):
    config = c.TokenEmbeddingConfig(**(EMBED | {"positions": positions, "max_positions": None}))
    assert config.max_length is None


def test_the_longest_text_is_what_the_offset_leaves():
    """RoBERTa: 514 rows, the first token on row 2, so 512 tokens."""
    config = c.TokenEmbeddingConfig(**(EMBED | {"max_positions": 514, "position_offset": 2, "skips_id": 1}))
    assert config.max_length == 512


def test_what_is_skipped_needs_a_row_before_the_first():
    c.TokenEmbeddingConfig(**EMBED, skips_id=1, position_offset=1)
    with pytest.raises(ConfigError, match="position_offset: got 0, expected 1 or more"):
        c.TokenEmbeddingConfig(**EMBED, skips_id=1)


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({}, 3 * 2 + 1),  # rows of 2 pixels in 6, columns of 3 in 8: two pixels are left over
        ({"special_tokens": 2}, 3 * 2 + 2),
        ({"image_size": (224, 224), "patch_size": (16, 16)}, 197),
    ],
)
def test_how_many_vectors_an_image_becomes(fields, length):
    assert c.PatchEmbeddingConfig(**(PATCHES | fields)).length == length


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": (6, 0)}, "image_size: got 0"),
        ({"patch_size": (2, True)}, "patch_size: got True"),
        ({"patch_size": (2, 9)}, "patch_size: got 9 for an image of 8 pixels"),
        ({"patch_size": (7, 3)}, "patch_size: got 7 for an image of 6 pixels"),
    ],
)
def test_patches_fit_into_the_image(fields, message):
    with pytest.raises(ConfigError, match=message):
        c.PatchEmbeddingConfig(**(PATCHES | fields))


def test_a_head_that_reads_an_end_token_knows_it():
    c.ClassificationConfig(**(CLASSIFIER | {"reads": "last_eos", "token_id": 2}))
    with pytest.raises(ConfigError, match="token_id: got None"):
        c.ClassificationConfig(**(CLASSIFIER | {"reads": "last_eos"}))


def test_the_width_of_a_head():
    assert c.StackConfig(**STACK).d_head == 4
    assert c.StackConfig(**(STACK | {"head_width": 3})).d_head == 3
    c.StackConfig(**(STACK | {"heads": 3, "head_width": 5}))  # 15 columns of a model of width 8
    with pytest.raises(ConfigError, match="heads: got 3 heads for d_model 8"):
        c.StackConfig(**(STACK | {"heads": 3}))


def test_rotary_positions_turn_pairs():
    c.StackConfig(**STACK, rotary_theta=10_000.0)
    with pytest.raises(ConfigError, match="d_head: got 3, expected an even width"):
        c.StackConfig(**STACK, rotary_theta=10_000.0, head_width=3)


def test_only_a_causal_stack_has_a_window():
    c.StackConfig(**(STACK | {"causal": True, "window": 2}))


def test_the_order_of_layers():
    assert c.StackConfig(**STACK).order == (0, 1)
    assert c.StackConfig(**STACK, layer_order=(1, 0, 1)).order == (1, 0, 1)


@pytest.mark.parametrize("order", [(), (0,), (0, 2), (0, 1, 2), (1, 1), (-1, 0, 1)])
def test_an_order_names_each_layer(order):
    with pytest.raises(ConfigError, match="layer_order: got "):
        c.StackConfig(**STACK, layer_order=order)


def test_only_three_parts_have_biases():
    c.StackConfig(**STACK, biases=())
    with pytest.raises(ConfigError, match="biases: got 'norm', expected one of qkv, o, ffn"):
        c.StackConfig(**STACK, biases=("qkv", "norm"))


EMBEDDING, ENCODER = c.TokenEmbeddingConfig(**EMBED), c.StackConfig(**STACK)
DECODER = dataclasses.replace(ENCODER, causal=True)
CROSS = dataclasses.replace(DECODER, cross_attention=True)
WIDE = dataclasses.replace(EMBEDDING, d_model=10)
IMAGE = c.PatchEmbeddingConfig(**PATCHES)
POOLER_HEADS = [
    c.ClassificationConfig(**CLASSIFIER),
    c.ClassificationConfig(task="multiple-choice", num_labels=1, reads="pooler"),
    c.PretrainingConfig(lm=c.LanguageModelConfig(**LM), pairs="next_sentence"),
]
BAD_MODELS = [
    ({}, "encoder, decoder: got neither"),
    ({"encoder": dataclasses.replace(ENCODER, d_model=10)}, r"d_model: got \[8, 10\] in one model"),
    ({"encoder": ENCODER, "decoder": CROSS, "target_embed": WIDE}, r"d_model: got \[8, 10\] in one model"),
    ({"encoder": ENCODER, "decoder": DECODER}, "cross_attention: a decoder behind an encoder has it"),
    ({"encoder": CROSS}, "cross_attention: an encoder has none"),
    ({"encoder": ENCODER, "target_embed": EMBEDDING}, "target_embed: only a model of two stacks has one"),
    ({"encoder": ENCODER, "decoder": CROSS, "shared_tokens": True}, "shared_tokens: there is no target_embed"),
    ({"decoder": DECODER, "decoder_start_id": 0}, "decoder_start_id: only a model of two stacks has one"),
    ({"embed": IMAGE, "decoder": DECODER}, "embed: patches are for a model of one encoder"),
    ({"embed": IMAGE, "encoder": ENCODER, "decoder": CROSS}, "embed: patches are for a model of one encoder"),
    *[({"encoder": ENCODER, "head": head}, f"pooler: the head {head.task} reads it") for head in POOLER_HEADS],
]


@pytest.mark.parametrize(("fields", "message"), BAD_MODELS)
def test_parts_that_do_not_fit(fields, message):
    with pytest.raises(ConfigError, match=message):
        c.TransformerConfig(**({"embed": EMBEDDING} | fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder": ENCODER},
        {"decoder": DECODER},
        {"encoder": ENCODER, "decoder": CROSS},
        {"encoder": ENCODER, "decoder": CROSS, "target_embed": EMBEDDING},
        {"encoder": ENCODER, "decoder": CROSS, "target_embed": EMBEDDING, "shared_tokens": True},
        {"encoder": ENCODER, "decoder": CROSS, "decoder_start_id": 0, "pad_id": 0},
        {"decoder": CROSS},  # a decoder that is read alone
        {"embed": IMAGE, "encoder": ENCODER},
        {"encoder": ENCODER, "head": c.ReplacedTokensConfig(activation="gelu")},
        {"embed": IMAGE, "encoder": ENCODER, "head": c.DistilledClassificationConfig(num_labels=2)},
        *[{"encoder": ENCODER, "pooler": True, "head": head} for head in POOLER_HEADS],
        {"decoder": DECODER, "head": c.ClassificationConfig(**(CLASSIFIER | {"reads": "last_token"}))},
    ],
)
def test_parts_that_fit(fields):
    config = c.TransformerConfig(**({"embed": EMBEDDING} | fields))
    assert config.task == ("base" if config.head is None else config.head.task)


def test_tasks_have_the_names_of_their_field():
    tasks = {head.task for head in POOLER_HEADS} | {c.TokenClassificationConfig(num_labels=2).task}
    tasks |= {c.QuestionAnsweringConfig().task, c.DistilledClassificationConfig(num_labels=2).task}
    assert c.ReplacedTokensConfig(activation="gelu").task == "pretraining"
    assert tasks == {"pretraining", "sequence-classification", "multiple-choice", "token-classification"} | {
        "question-answering",
        "image-classification-with-teacher",
    }


def test_the_language_model_within_a_head():
    lm = c.LanguageModelConfig(**LM)
    within = {
        lm: lm,
        c.PretrainingConfig(lm=lm, pairs="sentence_order"): lm,
        c.QuestionAnsweringConfig(): None,
        None: None,
    }
    for head, part in within.items():
        assert c.TransformerConfig(embed=EMBEDDING, encoder=ENCODER, head=head, pooler=True).lm is part


def test_configs_are_frozen_data():
    config = c.vaswani2017(vocab_size=9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.pooler = True
    assert config == c.vaswani2017(vocab_size=9)
    assert hash(config) == hash(c.vaswani2017(vocab_size=9))
    assert config != c.vaswani2017(vocab_size=10)
    with pytest.raises(TypeError):
        c.StackConfig(2, 8)  # keyword only


def test_the_papers_base_model():
    """Vaswani et al. 2017, table 3, first row; section 5.4 for dropout, 3.4 for the embedding's factor."""
    config = c.vaswani2017(vocab_size=37_000)
    for stack in (config.encoder, config.decoder):
        assert (stack.layers, stack.d_model, stack.d_ffn, stack.heads, stack.d_head) == (6, 512, 2048, 8, 64)
        assert (stack.norm_order, stack.final_norm, stack.activation, stack.dropout) == ("post", False, "relu", 0.1)
    assert (config.encoder.causal, config.decoder.causal) == (False, True)
    assert (config.encoder.cross_attention, config.decoder.cross_attention) == (False, True)
    assert config.embed.scale == 512**0.5
    assert config.embed.dropout == 0.1
    assert (config.embed.positions, config.target_embed, config.head.tied) == ("sinusoidal", None, True)


def test_a_config_needs_no_torch():
    code = "import sys, minitransformer.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_contributing_says_who_needs_each_field():
    """The sizes that every model has need no reason; each other field is in CONTRIBUTING's tables."""
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`(\w+)`", text[text.index("Today's fields") :]))
    sizes = {"vocab_size", "d_model", "layers", "heads", "d_ffn", "norm_eps", "num_labels", "dropout"}
    parts = {"embed", "encoder", "decoder", "head", "task"}
    configs = [x for x in vars(c).values() if dataclasses.is_dataclass(x)]
    fields = {field.name for config in configs for field in dataclasses.fields(config)}
    assert fields - sizes - parts <= named
    assert "activation_dropout" in fields
