"""ALBERT. Lan et al. 2019, "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations"."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from minitransformer.config import (
    HeadConfig,
    PretrainingConfig,
    TransformerConfig,
)
from minitransformer.errors import ConfigError
from minitransformer.families import bert
from minitransformer.families.fields import Raw, num_labels, number, whole
from minitransformer.families.heads import usual_head
from minitransformer.families.rules import Family, Ignore, Map, Rule

CLASSES = {
    "base": "AlbertModel",
    "pretraining": "AlbertForPreTraining",
    "masked-lm": "AlbertForMaskedLM",
    "sequence-classification": "AlbertForSequenceClassification",
    "token-classification": "AlbertForTokenClassification",
    "question-answering": "AlbertForQuestionAnswering",
    "multiple-choice": "AlbertForMultipleChoice",
}
DEFAULTS = {"hidden_act": "gelu_new", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
MOST_LAYERS = 1000  # they cost nothing in the file, so the file does not say when a number is absurd


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms. N layers in G groups: each group's weights compute N/G times."""
    raw = {**DEFAULTS, **{field: value for field, value in raw.items() if value is not None}}
    block, groups = bert.stack(raw), whole(raw, "num_hidden_groups", 1)
    if not 0 < groups <= block.layers <= MOST_LAYERS:
        raise ConfigError(
            f"config.json: got {block.layers} layers in {groups} groups, expected at least 1 group, a layer for each, "
            f"and at most {MOST_LAYERS}"
        )
    order = tuple(int(i / (block.layers / groups)) for i in range(block.layers))
    return TransformerConfig(
        embed=bert.embedding(raw, d_embed=whole(raw, "embedding_size")),
        encoder=replace(block, layers=groups, layer_order=order, ffn_dropout=0.0),
        head=_head(raw, head),
        pooler=head in bert.POOLED,
    )


def _head(raw: Raw, head: str) -> HeadConfig | None:
    dropout = number(raw, "classifier_dropout_prob", 0.1)
    if head == "pretraining":
        lm = bert.language_model(raw, "masked-lm")
        return PretrainingConfig(lm=lm, pairs="sentence_order", num_labels=num_labels(raw), dropout=dropout)
    return usual_head(
        raw,
        head,
        language_model=partial(bert.language_model, raw),
        text={"reads": "pooler", "dropout": dropout},
        token_dropout=dropout,
    )


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of an ALBERT file: one set of weights for each group of layers."""
    layer, ours = "encoder.albert_layer_groups.{i}.albert_layers.0", "encoder.layers.{i}"
    return [
        *bert.EMBEDDINGS,
        Map("encoder.embedding_hidden_mapping_in.{wb}", "embed.proj.{wb}"),
        Map(f"{layer}.attention.query.{{wb}}", f"{ours}.self_attn.q.{{wb}}"),
        Map(f"{layer}.attention.key.{{wb}}", f"{ours}.self_attn.k.{{wb}}"),
        Map(f"{layer}.attention.value.{{wb}}", f"{ours}.self_attn.v.{{wb}}"),
        Map(f"{layer}.attention.dense.{{wb}}", f"{ours}.self_attn.o.{{wb}}"),
        Map(f"{layer}.attention.LayerNorm.{{wb}}", f"{ours}.self_attn_norm.{{wb}}"),
        Map(f"{layer}.ffn.{{wb}}", f"{ours}.ffn.up.{{wb}}"),
        Map(f"{layer}.ffn_output.{{wb}}", f"{ours}.ffn.down.{{wb}}"),
        Map(f"{layer}.full_layer_layer_norm.{{wb}}", f"{ours}.ffn_norm.{{wb}}"),
        Map("pooler.{wb}", "pooler.{wb}"),
        Map("predictions.dense.{wb}", "head.lm.dense.{wb}"),
        Map("predictions.LayerNorm.{wb}", "head.lm.norm.{wb}"),
        *bert.projection(config, bias="predictions.bias", decoder="predictions.decoder"),
        Map("sop_classifier.classifier.{wb}", "head.pairs.{wb}"),
        Map("classifier.{wb}", "head.cls.{wb}"),
        Map("qa_outputs.{wb}", "head.qa.{wb}"),
        Ignore(r"^(albert\.)?pooler\.", "this head does not read the pooler"),
        Ignore(r"^(predictions|sop_classifier|classifier|qa_outputs)\.", "belongs to another head"),
    ]


ALBERT = Family(
    model_type="albert",
    differs="BERT's; layers share weights in groups, embeddings are narrower and projected",
    tokenizer="AlbertTokenizer",
    prefix="albert.",
    classes=CLASSES,
    config=config,
    rules=rules,
    refuses={"position_embedding_type": ("absolute", None), "inner_group_num": (1, None)},
)
