"""BART. Lewis et al. 2019, "BART: Denoising Sequence-to-Sequence Pre-training"."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from minitransformer.config import (
    HeadConfig,
    LanguageModelConfig,
    StackConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
)
from minitransformer.families.fields import Raw, activation, flag, number, whole
from minitransformer.families.heads import two_layers, usual_head
from minitransformer.families.rules import Copy, Family, Ignore, Map, Rule, Tie

CLASSES = {
    "base": "BartModel",
    "seq2seq-lm": "BartForConditionalGeneration",
    "causal-lm": "BartForCausalLM",
    "sequence-classification": "BartForSequenceClassification",
    "question-answering": "BartForQuestionAnswering",
}
EPS = 1e-5  # fixed: the config has no field for it
OFFSET = 2  # the first two rows of the table of positions are never used


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms. A causal-lm is the decoder alone, with nothing to attend across.

    Its labels are the input_ids themselves, as in every causal-lm; transformers' class does not shift them.
    """
    embed = TokenEmbeddingConfig(
        vocab_size=whole(raw, "vocab_size"),
        d_model=whole(raw, "d_model"),
        positions="learned",
        max_positions=whole(raw, "max_position_embeddings") + OFFSET,
        position_offset=OFFSET,
        scale=whole(raw, "d_model") ** 0.5 if flag(raw, "scale_embedding", default=False) else 1.0,
        norm_eps=EPS,
        dropout=number(raw, "dropout", 0.1),
    )
    alone = head == "causal-lm"
    return TransformerConfig(
        embed=embed,
        target_embed=None if alone else embed,
        shared_tokens=not alone and flag(raw, "tie_word_embeddings", default=True),
        encoder=None if alone else stack(raw, "encoder"),
        decoder=stack(raw, "decoder"),
        head=_head(raw, head),
        decoder_start_id=None if alone else whole(raw, "decoder_start_token_id", 2),
        pad_id=whole(raw, "pad_token_id", 1),
    )


def stack(raw: Raw, which: str) -> StackConfig:
    """BART's blocks, which Marian has, too."""
    dropout = number(raw, "dropout", 0.1)
    return StackConfig(
        layers=whole(raw, f"{which}_layers"),
        d_model=whole(raw, "d_model"),
        heads=whole(raw, f"{which}_attention_heads"),
        d_ffn=whole(raw, f"{which}_ffn_dim"),
        norm_order="post",
        norm_eps=EPS,
        final_norm=False,
        activation=activation(raw, "activation_function", "gelu"),
        causal=which == "decoder",
        cross_attention=which == "decoder",
        dropout=dropout,
        ffn_dropout=dropout,
        attention_dropout=number(raw, "attention_dropout", 0.0),
        activation_dropout=number(raw, "activation_dropout", 0.0),
    )


def _head(raw: Raw, head: str) -> HeadConfig | None:
    dropout = number(raw, "classifier_dropout", 0.0)
    return usual_head(
        raw,
        head,
        language_model=partial(language_model, raw),
        text={**two_layers("last_eos", "tanh", dropout), "token_id": whole(raw, "eos_token_id", 2)},
        labels=3,
    )


def language_model(raw: Raw, task: str) -> LanguageModelConfig:
    """The head that gives each token's logits. Behind an encoder it has a bias, which is not trained."""
    bias = "fixed" if task == "seq2seq-lm" else None
    return LanguageModelConfig(task=task, tied=flag(raw, "tie_word_embeddings", default=True), bias=bias)  # type: ignore[arg-type]


OTHER_HEADS = r"^(lm_head\.|final_logits_bias$|classification_head\.|qa_outputs\.)"


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a BART file."""
    embeddings = {"encoder": "embed", "decoder": "target_embed"} if config.encoder else {"decoder": "embed"}
    unused = Copy("{prefix}shared.weight", "embed.tokens.weight", "each stack has a table of its own")
    return [
        *tokens(config),
        *([unused] if config.target_embed is not None and not config.shared_tokens else []),
        *(Map(f"{stack}.embed_positions.weight", f"{embed}.positions.weight") for stack, embed in embeddings.items()),
        *(Map(f"{stack}.layernorm_embedding.{{wb}}", f"{embed}.norm.{{wb}}") for stack, embed in embeddings.items()),
        *layers("encoder"),
        *layers("decoder"),
        Map("lm_head.weight", "head.lm.weight"),
        Map("final_logits_bias", "head.lm.bias", ones=1, zeros=True),
        Map("classification_head.dense.{wb}", "head.dense.{wb}"),
        Map("classification_head.out_proj.{wb}", "head.cls.{wb}"),
        Map("qa_outputs.{wb}", "head.qa.{wb}"),
        Ignore(r"(encoder|decoder)\.version$", "a number of the program that wrote it"),
        Ignore(OTHER_HEADS, "belongs to another head"),
    ]


def tokens(config: TransformerConfig) -> list[Rule]:
    """The names of the token tables: one for all, or one for each stack, or the decoder's alone."""
    encoder, decoder = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"
    lm_head = Tie("lm_head.weight", f"{'target_embed' if config.target_embed else 'embed'}.tokens.weight")
    if config.encoder is None:
        shared = Tie("{prefix}shared.weight", "embed.tokens.weight")
        whole_model = Ignore(r"^(model\.)?encoder\.", "the model is the decoder alone")
        return [Map(decoder, "embed.tokens.weight"), lm_head, shared, whole_model]
    if config.target_embed is None or config.shared_tokens:
        copies = [Tie(f"{{prefix}}{name}", "embed.tokens.weight") for name in (encoder, decoder)]
        return [Map("shared.weight", "embed.tokens.weight"), *copies, Tie("lm_head.weight", "embed.tokens.weight")]
    return [Map(encoder, "embed.tokens.weight"), Map(decoder, "target_embed.tokens.weight"), lm_head]


def layers(stack: str) -> list[Rule]:
    """The names of BART's blocks."""
    file, ours = f"{stack}.layers.{{i}}", f"{stack}.layers.{{i}}"
    parts = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}
    return [
        *(Map(f"{file}.self_attn.{name}.{{wb}}", f"{ours}.self_attn.{m}.{{wb}}") for name, m in parts.items()),
        Map(f"{file}.self_attn_layer_norm.{{wb}}", f"{ours}.self_attn_norm.{{wb}}"),
        *(Map(f"{file}.encoder_attn.{name}.{{wb}}", f"{ours}.cross_attn.{m}.{{wb}}") for name, m in parts.items()),
        Map(f"{file}.encoder_attn_layer_norm.{{wb}}", f"{ours}.cross_attn_norm.{{wb}}"),
        Map(f"{file}.fc1.{{wb}}", f"{ours}.ffn.up.{{wb}}"),
        Map(f"{file}.fc2.{{wb}}", f"{ours}.ffn.down.{{wb}}"),
        Map(f"{file}.final_layer_norm.{{wb}}", f"{ours}.ffn_norm.{{wb}}"),
    ]


def saved(config: TransformerConfig) -> dict[str, Any]:
    """What config.json says of tying: it is about the stacks' tables, too. A head's own matrix the file shows."""
    one_table = config.shared_tokens or (config.encoder is not None and config.target_embed is None)
    return {} if config.lm is None else {"tie_word_embeddings": config.lm.tied or one_table}


SYNONYMS = {
    "num_attention_heads": "encoder_attention_heads",
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
}
REFUSES = {  # what its relatives have: mBART's norms, layers left out in training
    "is_encoder_decoder": (True, False, None),
    "normalize_before": (False, None),
    "add_final_layer_norm": (False, None),
    "normalize_embedding": (True, None),
    "static_position_embeddings": (False, None),
    "extra_pos_embeddings": (2, None),
    "encoder_layerdrop": (0.0, 0, None),
    "decoder_layerdrop": (0.0, 0, None),
}

BART = Family(
    model_type="bart",
    differs="post-norm encoder and decoder, learned positions from row 2, embeddings normalised",
    tokenizer="BartTokenizer",
    prefix="model.",
    classes=CLASSES,
    config=config,
    rules=rules,
    refuses=REFUSES,
    saved=saved,
    synonyms=SYNONYMS,
)
