"""BERT. Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from minitransformer.config import (
    ClassificationConfig,
    HeadConfig,
    LanguageModelConfig,
    PretrainingConfig,
    StackConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
)
from minitransformer.families.fields import Raw, activation, flag, number, refuse, whole
from minitransformer.families.heads import usual_head
from minitransformer.families.rules import Alias, Copy, Family, Ignore, Map, Rule, Tie

CLASSES = {
    "base": "BertModel",
    "pretraining": "BertForPreTraining",
    "masked-lm": "BertForMaskedLM",
    "next-sentence-prediction": "BertForNextSentencePrediction",
    "causal-lm": "BertLMHeadModel",
    "sequence-classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
    "question-answering": "BertForQuestionAnswering",
    "multiple-choice": "BertForMultipleChoice",
}
POOLED = ("base", "pretraining", "next-sentence-prediction", "sequence-classification", "multiple-choice")


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms. With `is_decoder`, a causal-lm has a causal mask."""
    causal = is_causal(raw, head)
    block = stack(raw, causal=causal)
    return TransformerConfig(
        embed=embedding(raw),
        encoder=None if causal else block,
        decoder=block if causal else None,
        head=_head(raw, head),
        pooler=head in POOLED,
    )


def is_causal(raw: Raw, head: str) -> bool:
    """Whether this is a decoder, which only a causal-lm may be."""
    causal = head == "causal-lm" and flag(raw, "is_decoder", default=False)
    if not causal:
        refuse(raw, {"is_decoder": (False, None)})
    return causal


def stack(raw: Raw, *, causal: bool = False) -> StackConfig:
    """BERT's blocks, which RoBERTa and ELECTRA have, too."""
    dropout = number(raw, "hidden_dropout_prob", 0.1)
    return StackConfig(
        layers=whole(raw, "num_hidden_layers"),
        d_model=whole(raw, "hidden_size"),
        heads=whole(raw, "num_attention_heads"),
        d_ffn=whole(raw, "intermediate_size"),
        norm_order="post",
        norm_eps=number(raw, "layer_norm_eps", 1e-12),
        final_norm=False,
        activation=activation(raw, "hidden_act", "gelu"),
        causal=causal,
        dropout=dropout,
        ffn_dropout=dropout,
        attention_dropout=number(raw, "attention_probs_dropout_prob", 0.1),
    )


def embedding(raw: Raw, **differs: Any) -> TokenEmbeddingConfig:
    """BERT's embeddings; `differs`: what is otherwise in a relative of BERT."""
    return TokenEmbeddingConfig(
        vocab_size=whole(raw, "vocab_size"),
        d_model=whole(raw, "hidden_size"),
        positions="learned",
        max_positions=whole(raw, "max_position_embeddings"),
        token_types="learned",
        type_vocab_size=whole(raw, "type_vocab_size", 2),
        norm_eps=number(raw, "layer_norm_eps", 1e-12),
        dropout=number(raw, "hidden_dropout_prob", 0.1),
        **differs,
    )


def language_model(raw: Raw, task: str, **differs: Any) -> LanguageModelConfig:
    """BERT's head of masked tokens."""
    fields: dict[str, Any] = {
        "tied": flag(raw, "tie_word_embeddings", default=True),
        "bias": "learned",
        "transform": activation(raw, "hidden_act", "gelu"),
        "norm_eps": number(raw, "layer_norm_eps", 1e-12),
    }
    return LanguageModelConfig(task=task, **{**fields, **differs})  # type: ignore[arg-type]


def head_dropout(raw: Raw) -> float:
    """The dropout before a classifier: its own, or that of the hidden states."""
    return number(raw, "classifier_dropout", number(raw, "hidden_dropout_prob", 0.1))


def _head(raw: Raw, head: str) -> HeadConfig | None:
    if head == "pretraining":
        return PretrainingConfig(lm=language_model(raw, "masked-lm"), pairs="next_sentence")
    if head == "next-sentence-prediction":
        return ClassificationConfig(task="next-sentence-prediction", num_labels=2, reads="pooler")
    dropout = head_dropout(raw)
    return usual_head(
        raw,
        head,
        language_model=partial(language_model, raw),
        text={"reads": "pooler", "dropout": dropout},
        token_dropout=dropout,
    )


LAYER = "encoder.layer.{i}"
OURS = "{stack}.layers.{i}"
EMBEDDINGS: list[Rule] = [
    Map("embeddings.word_embeddings.weight", "embed.tokens.weight"),
    Map("embeddings.position_embeddings.weight", "embed.positions.weight"),
    Map("embeddings.token_type_embeddings.weight", "embed.types.weight"),
    Map("embeddings.LayerNorm.{wb}", "embed.norm.{wb}"),
    Alias(r"LayerNorm\.gamma$", "LayerNorm.weight"),
    Alias(r"LayerNorm\.beta$", "LayerNorm.bias"),
    Ignore(r"embeddings\.(position_ids|token_type_ids)$", "a buffer: 0, 1, 2, …"),
]
LAYERS: list[Rule] = [
    Map(f"{LAYER}.attention.self.query.{{wb}}", f"{OURS}.self_attn.q.{{wb}}"),
    Map(f"{LAYER}.attention.self.key.{{wb}}", f"{OURS}.self_attn.k.{{wb}}"),
    Map(f"{LAYER}.attention.self.value.{{wb}}", f"{OURS}.self_attn.v.{{wb}}"),
    Map(f"{LAYER}.attention.output.dense.{{wb}}", f"{OURS}.self_attn.o.{{wb}}"),
    Map(f"{LAYER}.attention.output.LayerNorm.{{wb}}", f"{OURS}.self_attn_norm.{{wb}}"),
    Map(f"{LAYER}.intermediate.dense.{{wb}}", f"{OURS}.ffn.up.{{wb}}"),
    Map(f"{LAYER}.output.dense.{{wb}}", f"{OURS}.ffn.down.{{wb}}"),
    Map(f"{LAYER}.output.LayerNorm.{{wb}}", f"{OURS}.ffn_norm.{{wb}}"),
]


def projection(config: TransformerConfig, *, bias: str, decoder: str) -> list[Rule]:
    """The names of a language model's last step. Tied, its matrix is the token table, and `bias` its bias.

    Untied, the bias that is used is the decoder's own.
    """
    tied = config.lm is None or config.lm.tied
    matrix = Map(f"{decoder}.weight", "head.lm.weight"), Tie(f"{decoder}.weight", "embed.tokens.weight")
    if tied:
        return [*matrix, Map(bias, "head.lm.bias"), Tie(f"{decoder}.bias", "head.lm.bias")]
    unused = Copy(bias, "head.lm.bias", "an untied head uses decoder.bias")
    return [*matrix, Map(f"{decoder}.bias", "head.lm.bias"), unused]


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a BERT file."""
    of_pairs = isinstance(config.head, ClassificationConfig) and config.head.task == "next-sentence-prediction"
    return [
        *EMBEDDINGS,
        *LAYERS,
        Map("pooler.dense.{wb}", "pooler.{wb}"),
        Map("cls.predictions.transform.dense.{wb}", "head.lm.dense.{wb}"),
        Map("cls.predictions.transform.LayerNorm.{wb}", "head.lm.norm.{wb}"),
        *projection(config, bias="cls.predictions.bias", decoder="cls.predictions.decoder"),
        Map("cls.seq_relationship.{wb}", "head.pairs.{wb}"),
        Map("cls.seq_relationship.{wb}" if of_pairs else "classifier.{wb}", "head.cls.{wb}"),
        Map("qa_outputs.{wb}", "head.qa.{wb}"),
        Ignore(r"^(bert\.)?pooler\.", "this head does not read the pooler"),
        Ignore(r"^(cls|classifier|qa_outputs)\.", "belongs to another head"),
    ]


BERT = Family(
    model_type="bert",
    differs="post-norm encoder, learned positions and token types",
    tokenizer="BertTokenizer",
    prefix="bert.",
    classes=CLASSES,
    config=config,
    rules=rules,
    refuses={"position_embedding_type": ("absolute", None)},
)
