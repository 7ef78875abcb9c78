"""ELECTRA, generator and discriminator. Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators"."""

from collections.abc import Sequence
from functools import partial

from minitransformer.config import (
    ClassificationConfig,
    HeadConfig,
    ReplacedTokensConfig,
    TransformerConfig,
)
from minitransformer.families import bert
from minitransformer.families.fields import ACTIVATIONS, Raw, activation, number, whole
from minitransformer.families.heads import two_layers, usual_head
from minitransformer.families.rules import Family, Ignore, Map, Rule, Tie

CLASSES = {
    "base": "ElectraModel",
    "pretraining": "ElectraForPreTraining",
    "masked-lm": "ElectraForMaskedLM",
    "causal-lm": "ElectraForCausalLM",
    "sequence-classification": "ElectraForSequenceClassification",
    "token-classification": "ElectraForTokenClassification",
    "question-answering": "ElectraForQuestionAnswering",
    "multiple-choice": "ElectraForMultipleChoice",
}


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms."""
    causal = bert.is_causal(raw, head)
    block, d_embed = bert.stack(raw, causal=causal), whole(raw, "embedding_size")
    return TransformerConfig(
        embed=bert.embedding(raw, d_embed=None if d_embed == block.d_model else d_embed),
        encoder=None if causal else block,
        decoder=block if causal else None,
        head=_head(raw, head),
    )


def _head(raw: Raw, head: str) -> HeadConfig | None:
    if head == "pretraining":
        return ReplacedTokensConfig(activation=activation(raw, "hidden_act", "gelu"))
    dropout = bert.head_dropout(raw)
    return usual_head(
        raw,
        head,
        language_model=partial(bert.language_model, raw, transform="gelu"),  # whatever hidden_act says
        text=two_layers("first_token", "gelu", dropout),
        choice={
            "reads": "first_token",
            "transform": activation(raw, "summary_activation", "gelu"),
            "transform_dropout": number(raw, "summary_first_dropout", 0.0),
            "dropout": number(raw, "summary_last_dropout", 0.1),
        },
        token_dropout=dropout,
    )


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of an ELECTRA file."""
    head = config.head
    dense, cls = "classifier.dense.{wb}", "classifier.{wb}"
    if isinstance(head, ReplacedTokensConfig):
        dense, cls = "discriminator_predictions.dense.{wb}", "discriminator_predictions.dense_prediction.{wb}"
    elif isinstance(head, ClassificationConfig) and head.task == "multiple-choice":
        dense = "sequence_summary.summary.{wb}"
    elif isinstance(head, ClassificationConfig):
        cls = "classifier.out_proj.{wb}"
    others = "generator_predictions|generator_lm_head|discriminator_predictions|sequence_summary|classifier|qa_outputs"
    return [
        *bert.EMBEDDINGS,
        Map("embeddings_project.{wb}", "embed.proj.{wb}"),
        *bert.LAYERS,
        Map("generator_predictions.dense.{wb}", "head.lm.dense.{wb}"),
        Map("generator_predictions.LayerNorm.{wb}", "head.lm.norm.{wb}"),
        Map("generator_lm_head.{wb}", "head.lm.{wb}"),
        Map(dense, "head.dense.{wb}"),
        Map(cls, "head.cls.{wb}"),
        Map("qa_outputs.{wb}", "head.qa.{wb}"),
        Tie("generator_lm_head.weight", "embed.tokens.weight"),
        Ignore(rf"^({others})\.", "belongs to another head"),
    ]


ELECTRA = Family(
    model_type="electra",
    differs="BERT's; embeddings may be narrower than the model, and are projected",
    tokenizer="ElectraTokenizer",
    prefix="electra.",
    classes=CLASSES,
    config=config,
    rules=rules,
    refuses={
        "position_embedding_type": ("absolute", None),
        "summary_type": ("first", None),
        "summary_use_proj": (True, None),
        "summary_activation": tuple(ACTIVATIONS),
        "summary_proj_to_labels": (False, None),
    },
)
