"""DistilBERT. Sanh et al. 2019, "DistilBERT, a distilled version of BERT"."""

from collections.abc import Sequence
from functools import partial

from minitransformer.config import (
    HeadConfig,
    LanguageModelConfig,
    StackConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
)
from minitransformer.families.fields import Raw, activation, flag, number, whole
from minitransformer.families.heads import usual_head
from minitransformer.families.rules import Alias, Family, Ignore, Map, Rule, Tie

CLASSES = {
    "base": "DistilBertModel",
    "masked-lm": "DistilBertForMaskedLM",
    "sequence-classification": "DistilBertForSequenceClassification",
    "token-classification": "DistilBertForTokenClassification",
    "question-answering": "DistilBertForQuestionAnswering",
    "multiple-choice": "DistilBertForMultipleChoice",
}
EPS = 1e-12  # fixed: the config has no field for it


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms."""
    d_model, dropout = whole(raw, "dim"), number(raw, "dropout", 0.1)
    return TransformerConfig(
        embed=TokenEmbeddingConfig(
            vocab_size=whole(raw, "vocab_size"),
            d_model=d_model,
            positions="learned",  # sinusoids, too, are stored
            max_positions=whole(raw, "max_position_embeddings"),
            norm_eps=EPS,
            dropout=dropout,
        ),
        encoder=StackConfig(
            layers=whole(raw, "n_layers"),
            d_model=d_model,
            heads=whole(raw, "n_heads"),
            d_ffn=whole(raw, "hidden_dim"),
            norm_order="post",
            norm_eps=EPS,
            final_norm=False,
            activation=activation(raw, "activation", "gelu"),
            causal=False,
            ffn_dropout=dropout,
            attention_dropout=number(raw, "attention_dropout", 0.1),
        ),
        head=_head(raw, head, dropout),
    )


def _head(raw: Raw, head: str, dropout: float) -> HeadConfig | None:
    return usual_head(
        raw,
        head,
        language_model=partial(_language_model, raw),
        text={"reads": "first_token", "transform": "relu", "dropout": number(raw, "seq_classif_dropout", 0.2)},
        token_dropout=dropout,
        answer_dropout=number(raw, "qa_dropout", 0.1),
    )


def _language_model(raw: Raw, task: str) -> LanguageModelConfig:
    return LanguageModelConfig(
        task="masked-lm",
        tied=flag(raw, "tie_word_embeddings", default=True),
        bias="learned",
        transform=activation(raw, "activation", "gelu"),
        norm_eps=EPS,
    )


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a DistilBERT file."""
    layer, ours = "transformer.layer.{i}", "encoder.layers.{i}"
    return [
        Map("embeddings.word_embeddings.weight", "embed.tokens.weight"),
        Map("embeddings.position_embeddings.weight", "embed.positions.weight"),
        Map("embeddings.LayerNorm.{wb}", "embed.norm.{wb}"),
        Map(f"{layer}.attention.q_lin.{{wb}}", f"{ours}.self_attn.q.{{wb}}"),
        Map(f"{layer}.attention.k_lin.{{wb}}", f"{ours}.self_attn.k.{{wb}}"),
        Map(f"{layer}.attention.v_lin.{{wb}}", f"{ours}.self_attn.v.{{wb}}"),
        Map(f"{layer}.attention.out_lin.{{wb}}", f"{ours}.self_attn.o.{{wb}}"),
        Map(f"{layer}.sa_layer_norm.{{wb}}", f"{ours}.self_attn_norm.{{wb}}"),
        Map(f"{layer}.ffn.lin1.{{wb}}", f"{ours}.ffn.up.{{wb}}"),
        Map(f"{layer}.ffn.lin2.{{wb}}", f"{ours}.ffn.down.{{wb}}"),
        Map(f"{layer}.output_layer_norm.{{wb}}", f"{ours}.ffn_norm.{{wb}}"),
        Map("vocab_transform.{wb}", "head.lm.dense.{wb}"),
        Map("vocab_layer_norm.{wb}", "head.lm.norm.{wb}"),
        Map("vocab_projector.{wb}", "head.lm.{wb}"),
        Map("pre_classifier.{wb}", "head.dense.{wb}"),
        Map("classifier.{wb}", "head.cls.{wb}"),
        Map("qa_outputs.{wb}", "head.qa.{wb}"),
        Tie("vocab_projector.weight", "embed.tokens.weight"),
        Alias(r"LayerNorm\.gamma$", "LayerNorm.weight"),
        Alias(r"LayerNorm\.beta$", "LayerNorm.bias"),
        Ignore(r"embeddings\.position_ids$", "a buffer: 0, 1, 2, …"),
        Ignore(r"^(vocab_\w+|pre_classifier|classifier|qa_outputs)\.", "belongs to another head"),
    ]


DISTILBERT = Family(
    model_type="distilbert",
    differs="BERT's, without token types and pooler",
    tokenizer="DistilBertTokenizer",
    prefix="distilbert.",
    classes=CLASSES,
    config=config,
    rules=rules,
    refuses={"position_embedding_type": ("absolute", None)},
    synonyms={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
)
