"""Each rule of a config refuses what breaks it, and says which field."""

import dataclasses
import subprocess
import sys

import pytest

from minitransformer import config as c
from minitransformer.errors import ConfigError

EMBED = {"vocab_size": 9, "d_model": 8, "positions": "learned", "max_positions": 4}
STACK = {"layers": 2, "d_model": 8, "heads": 2, "d_ffn": 16, "norm_order": "post", "norm_eps": 1e-5} | {
    "final_norm": False,
    "activation": "relu",
    "causal": False,
}
CLASSIFIER = {"num_labels": 2, "reads": "pooler", "bias": True}
VALID = {
    c.TokenEmbeddingConfig: EMBED,
    c.StackConfig: STACK,
    c.LanguageModelConfig: {"task": "masked-lm", "tied": True},
    c.SequenceClassificationConfig: CLASSIFIER,
    c.TokenClassificationConfig: {"num_labels": 2},
    c.MultipleChoiceConfig: {},
}
SIZES = [0, -1, 1.5, True, None, "8"]
PROBABILITIES = [-0.1, 1, 1.5, float("nan"), True, None, "0.1"]
NUMBERS = [0, -1.0, float("nan"), float("inf"), True, "1"]
BAD_FIELDS = [
    (c.TokenEmbeddingConfig, "vocab_size", SIZES),
    (c.TokenEmbeddingConfig, "d_model", SIZES),
    (c.TokenEmbeddingConfig, "max_positions", SIZES),
    (c.TokenEmbeddingConfig, "positions", ["rotary", None]),
    (c.TokenEmbeddingConfig, "token_types", ["some", 1]),
    (c.TokenEmbeddingConfig, "scale", [*NUMBERS, None]),
    (c.TokenEmbeddingConfig, "norm_eps", NUMBERS),
    (c.TokenEmbeddingConfig, "dropout", PROBABILITIES),
    (c.StackConfig, "layers", SIZES),
    (c.StackConfig, "d_model", SIZES),
    (c.StackConfig, "heads", [*SIZES, 3]),
    (c.StackConfig, "d_ffn", SIZES),
    (c.StackConfig, "norm_order", ["both", None]),
    (c.StackConfig, "norm_eps", [*NUMBERS, None]),
    (c.StackConfig, "activation", ["swish", None]),
    (c.StackConfig, "score_scale", NUMBERS),
    (c.StackConfig, "dropout", PROBABILITIES),
    (c.StackConfig, "attention_dropout", PROBABILITIES),
    (c.LanguageModelConfig, "task", ["lm", None]),
    (c.LanguageModelConfig, "transform", ["tanh", ""]),
    (c.LanguageModelConfig, "norm_eps", [*NUMBERS, None]),
    (c.SequenceClassificationConfig, "num_labels", SIZES),
    (c.SequenceClassificationConfig, "reads", ["first_token", None]),
    (c.SequenceClassificationConfig, "dropout", PROBABILITIES),
    (c.TokenClassificationConfig, "num_labels", SIZES),
    (c.TokenClassificationConfig, "dropout", PROBABILITIES),
    (c.MultipleChoiceConfig, "dropout", PROBABILITIES),
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


def test_only_sinusoids_have_no_end():
    c.TokenEmbeddingConfig(**(EMBED | {"positions": "sinusoidal", "max_positions": None}))


EMBEDDING, ENCODER = c.TokenEmbeddingConfig(**EMBED), c.StackConfig(**STACK)
DECODER = dataclasses.replace(ENCODER, causal=True)
CROSS = dataclasses.replace(DECODER, cross_attention=True)
WIDE = dataclasses.replace(EMBEDDING, d_model=10)
POOLER_HEADS = [
    c.SequenceClassificationConfig(**CLASSIFIER),
    c.MultipleChoiceConfig(),
    c.PretrainingConfig(lm=c.LanguageModelConfig(task="masked-lm", tied=True)),
]
BAD_MODELS = [
    ({}, "encoder, decoder: got neither"),
    ({"encoder": dataclasses.replace(ENCODER, d_model=10)}, r"d_model: got \[8, 10\] in one model"),
    ({"encoder": ENCODER, "decoder": CROSS, "target_embed": WIDE}, r"d_model: got \[8, 10\] in one model"),
    ({"decoder": CROSS}, "cross_attention: a decoder has it just when there is an encoder"),
    ({"encoder": ENCODER, "decoder": DECODER}, "cross_attention: a decoder has it just when there is an encoder"),
    ({"encoder": CROSS}, "cross_attention: an encoder has none"),
    ({"encoder": ENCODER, "target_embed": EMBEDDING}, "target_embed: only a model of two stacks has one"),
    *[({"encoder": ENCODER, "head": head}, f"pooler: the head {head.task} reads it") for head in POOLER_HEADS],
]


@pytest.mark.parametrize(("fields", "message"), BAD_MODELS)
def test_parts_that_do_not_fit(fields, message):
    with pytest.raises(ConfigError, match=message):
        c.TransformerConfig(embed=EMBEDDING, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"encoder": ENCODER},
        {"decoder": DECODER},
        {"encoder": ENCODER, "decoder": CROSS},
        {"encoder": ENCODER, "decoder": CROSS, "target_embed": EMBEDDING},
        *[{"encoder": ENCODER, "pooler": True, "head": head} for head in POOLER_HEADS],
        {"decoder": DECODER, "head": c.SequenceClassificationConfig(**(CLASSIFIER | {"reads": "last_token"}))},
    ],
)
def test_parts_that_fit(fields):
    config = c.TransformerConfig(embed=EMBEDDING, **fields)
    assert config.task == ("base" if config.head is None else config.head.task)


def test_tasks_have_the_names_of_their_field():
    tasks = {head.task for head in POOLER_HEADS} | {c.TokenClassificationConfig(num_labels=2).task}
    tasks |= {c.QuestionAnsweringConfig().task}
    assert tasks == {"pretraining", "sequence-classification", "multiple-choice", "token-classification"} | {
        "question-answering"
    }


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
