"""RoBERTa and XLM-R: BERT's blocks, other positions and heads.

Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach"; Conneau et al. 2019, "Unsupervised
Cross-lingual Representation Learning at Scale".
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from minitransformer.config import (
    ClassificationConfig,
    HeadConfig,
    TransformerConfig,
)
from minitransformer.errors import ConfigError
from minitransformer.families import bert
from minitransformer.families.fields import Raw, number, whole
from minitransformer.families.heads import two_layers, usual_head
from minitransformer.families.rules import Family, Ignore, Map, Rule

CLASSES = {
    "base": "RobertaModel",
    "masked-lm": "RobertaForMaskedLM",
    "causal-lm": "RobertaForCausalLM",
    "sequence-classification": "RobertaForSequenceClassification",
    "token-classification": "RobertaForTokenClassification",
    "question-answering": "RobertaForQuestionAnswering",
    "multiple-choice": "RobertaForMultipleChoice",
}


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms. Positions count from behind the padding's id, and skip padding."""
    causal, pad_id = bert.is_causal(raw, head), whole(raw, "pad_token_id", 1)
    if pad_id < 0:
        raise ConfigError(f"config.json: pad_token_id: got {pad_id}, expected 0 or more: positions count from it")
    block = bert.stack(raw, causal=causal)
    return TransformerConfig(
        embed=bert.embedding(raw, position_offset=pad_id + 1, skips_id=pad_id),
        encoder=None if causal else block,
        decoder=block if causal else None,
        head=_head(raw, head),
        pooler=head in ("base", "multiple-choice"),
    )


def _head(raw: Raw, head: str) -> HeadConfig | None:
    dropout = bert.head_dropout(raw)
    return usual_head(
        raw,
        head,
        language_model=partial(bert.language_model, raw, transform="gelu"),  # whatever hidden_act says
        text=two_layers("first_token", "tanh", dropout),
        choice={"reads": "pooler", "dropout": number(raw, "hidden_dropout_prob", 0.1)},
        token_dropout=dropout,
    )


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a RoBERTa file."""
    two_layers = isinstance(config.head, ClassificationConfig) and config.head.transform is not None
    return [
        *bert.EMBEDDINGS,
        *bert.LAYERS,
        Map("pooler.dense.{wb}", "pooler.{wb}"),
        Map("lm_head.dense.{wb}", "head.lm.dense.{wb}"),
        Map("lm_head.layer_norm.{wb}", "head.lm.norm.{wb}"),
        *bert.projection(config, bias="lm_head.bias", decoder="lm_head.decoder"),
        Map("classifier.dense.{wb}", "head.dense.{wb}"),
        Map("classifier.out_proj.{wb}" if two_layers else "classifier.{wb}", "head.cls.{wb}"),
        Map("qa_outputs.{wb}", "head.qa.{wb}"),
        Ignore(r"^(roberta\.)?pooler\.", "this head does not read the pooler"),
        Ignore(r"^(lm_head|classifier|qa_outputs)\.", "belongs to another head"),
    ]


ROBERTA = Family(
    model_type="roberta",
    differs="BERT's; positions count from pad_token_id + 1 and skip padding",
    tokenizer="RobertaTokenizer",
    prefix="roberta.",
    classes=CLASSES,
    config=config,
    rules=rules,
    refuses={"position_embedding_type": ("absolute", None)},
)
XLM_ROBERTA = replace(
    ROBERTA,
    model_type="xlm-roberta",
    differs="RoBERTa's",
    tokenizer="XLMRobertaTokenizer",
    classes={head: name.replace("Roberta", "XLMRoberta") for head, name in CLASSES.items()},
)
