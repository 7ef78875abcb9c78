"""T5, v1.0, v1.1 and Flan. Raffel et al. 2019, "Exploring the Limits of Transfer Learning with … Text-to-Text"."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from minitransformer.config import (
    ClassificationConfig,
    HeadConfig,
    LanguageModelConfig,
    RelativePositionsConfig,
    StackConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
)
from minitransformer.families.fields import Raw, activation, flag, number, refuse, whole
from minitransformer.families.heads import two_layers, usual_head
from minitransformer.families.rules import Copy, Family, Ignore, Map, Rule, Tie

CLASSES = {
    "base": "T5Model",
    "encoder": "T5EncoderModel",
    "seq2seq-lm": "T5ForConditionalGeneration",
    "sequence-classification": "T5ForSequenceClassification",
    "token-classification": "T5ForTokenClassification",
    "question-answering": "T5ForQuestionAnswering",
}
FFN = "feed_forward_proj"


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms."""
    d_model, dropout = whole(raw, "d_model"), number(raw, "dropout_rate", 0.1)
    pad_id, layers = whole(raw, "pad_token_id", 0), whole(raw, "num_layers")
    encoder = _stack(raw, d_model, dropout)
    alone = head in ("encoder", "token-classification")
    decoder = replace(encoder, layers=whole(raw, "num_decoder_layers", layers), causal=True, cross_attention=True)
    return TransformerConfig(
        embed=TokenEmbeddingConfig(
            vocab_size=whole(raw, "vocab_size"), d_model=d_model, positions=None, max_positions=None, dropout=dropout
        ),
        encoder=encoder,
        decoder=None if alone else decoder,
        head=_head(raw, head),
        decoder_start_id=None if alone else whole(raw, "decoder_start_token_id", pad_id),
        pad_id=pad_id,
    )


def _stack(raw: Raw, d_model: int, dropout: float) -> StackConfig:
    kind = raw.get(FFN, "relu")  # "gated-gelu" means the approximation, "gelu" does not
    function = kind.removeprefix("gated-") if isinstance(kind, str) else kind
    computed = "gelu_new" if kind == "gated-gelu" else function
    applied = activation({FFN: computed}, FFN, "relu")
    refuse(raw, {"dense_act_fn": (computed, None), "is_gated_act": (function != kind, None)})  # newer configs repeat it
    return StackConfig(
        layers=whole(raw, "num_layers"),
        d_model=d_model,
        heads=whole(raw, "num_heads"),
        head_width=whole(raw, "d_kv"),
        d_ffn=whole(raw, "d_ff"),
        norm="rms",
        norm_order="pre",
        norm_eps=number(raw, "layer_norm_epsilon", 1e-6),
        final_norm=True,
        gated=function != kind,
        activation=applied,
        causal=False,
        score_scale=1.0,
        relative_positions=RelativePositionsConfig(
            buckets=whole(raw, "relative_attention_num_buckets", 32),
            max_distance=whole(raw, "relative_attention_max_distance", 128),
        ),
        biases=(),
        dropout=dropout,
        ffn_dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=dropout,
        final_dropout=dropout,
    )


def _head(raw: Raw, head: str) -> HeadConfig | None:
    dropout = number(raw, "classifier_dropout", 0.0)
    return usual_head(
        raw,
        head,
        language_model=partial(language_model, raw),
        text={**two_layers("last_eos", "tanh", dropout), "token_id": whole(raw, "eos_token_id", 1)},
        token_dropout=dropout,
    )


def language_model(raw: Raw, task: str) -> LanguageModelConfig:
    """The head that gives each token's logits. "Tied" has come to mean "scaled".

    Whether the matrix is the table, the file alone says.
    """
    scaled = flag(raw, "scale_decoder_outputs", flag(raw, "tie_word_embeddings", default=True))
    scale = whole(raw, "d_model") ** -0.5 if scaled else 1.0
    return LanguageModelConfig(task="seq2seq-lm", tied=True, scale=scale)


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a T5 file."""
    names: list[Rule] = [
        Map("shared.weight", "embed.tokens.weight"),
        Map("lm_head.weight", "head.lm.weight"),
        Map("classification_head.dense.{wb}", "head.dense.{wb}"),
        Map(
            "classification_head.out_proj.{wb}" if isinstance(config.head, ClassificationConfig) else "classifier.{wb}",
            "head.cls.{wb}",
        ),
        Map("qa_outputs.{wb}", "head.qa.{wb}"),
        Tie("{prefix}encoder.embed_tokens.weight", "embed.tokens.weight"),
        Tie("{prefix}decoder.embed_tokens.weight", "embed.tokens.weight"),
        Tie("lm_head.weight", "embed.tokens.weight"),
        Ignore(r"block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$", "never used"),
        Ignore(r"^(lm_head|classification_head|classifier|qa_outputs)\.", "belongs to another head"),
    ]
    if config.lm is not None and config.lm.tied and not _scaled(config.lm):
        names.append(Copy("lm_head.weight", "embed.tokens.weight", "other readers do not tie it"))
    if config.decoder is None:
        names.append(Ignore(r"^(transformer\.)?decoder\.", "the model is the encoder alone"))
    up = "wi_1" if config.encoder is not None and config.encoder.gated else "wi"
    return [*names, *_stack_rules("encoder", 1, up), *_stack_rules("decoder", 2, up)]


def _stack_rules(stack: str, ffn: int, up: str) -> list[Rule]:
    """The names of a stack whose feed-forward is the layer of that number in each block."""
    block, ours = f"{stack}.block.{{i}}.layer", f"{stack}.layers.{{i}}"
    return [
        *(Map(f"{block}.0.SelfAttention.{m}.{{wb}}", f"{ours}.self_attn.{m}.{{wb}}") for m in "qkvo"),
        Map(f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight", f"{stack}.relative_bias.weight"),
        Map(f"{block}.0.layer_norm.weight", f"{ours}.self_attn_norm.weight"),
        *(Map(f"{block}.1.EncDecAttention.{m}.{{wb}}", f"{ours}.cross_attn.{m}.{{wb}}") for m in "qkvo"),
        Map(f"{block}.1.layer_norm.weight", f"{ours}.cross_attn_norm.weight"),
        Map(f"{block}.{ffn}.DenseReluDense.wi_0.weight", f"{ours}.ffn.gate.weight"),
        Map(f"{block}.{ffn}.DenseReluDense.{up}.weight", f"{ours}.ffn.up.weight"),
        Map(f"{block}.{ffn}.DenseReluDense.wo.weight", f"{ours}.ffn.down.weight"),
        Map(f"{block}.{ffn}.layer_norm.weight", f"{ours}.ffn_norm.weight"),
        Map(f"{stack}.final_layer_norm.weight", f"{stack}.final_norm.weight"),
    ]


def _scaled(lm: LanguageModelConfig) -> bool:
    return lm.scale != 1


def saved(config: TransformerConfig) -> dict[str, Any]:
    """What config.json says of the head, so that every version of transformers reads it in the same way."""
    return {} if config.lm is None else {"tie_word_embeddings": _scaled(config.lm)}


T5 = Family(
    model_type="t5",
    differs="pre-RMSNorm encoder and decoder, relative position bias, no biases, scores not scaled, gated or not",
    tokenizer="T5Tokenizer",
    prefix="",
    prefixes={"sequence-classification": "transformer.", "token-classification": "transformer."},
    classes=CLASSES,
    config=config,
    learning_rate=3e-4,
    rules=rules,
    refuses={
        "is_encoder_decoder": (True, False, None),
        "is_decoder": (False, None),
        "scale_decoder_outputs": (True, False),
    },
    synonyms={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    saved=saved,
)
