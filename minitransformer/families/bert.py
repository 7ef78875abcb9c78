"""BERT. Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"."""

from collections.abc import Sequence

from minitransformer.config import (
    HeadConfig,
    LanguageModelConfig,
    MultipleChoiceConfig,
    PretrainingConfig,
    QuestionAnsweringConfig,
    SequenceClassificationConfig,
    StackConfig,
    TokenClassificationConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
)
from minitransformer.families.fields import (
    NOWHERE,
    Raw,
    activation,
    flag,
    num_labels,
    number,
    refuse,
    whole,
)
from minitransformer.families.rules import Alias, Copy, Family, Ignore, Map, Rule, Tie

CLASSES = {
    "base": "BertModel",
    "pretraining": "BertForPreTraining",
    "masked-lm": "BertForMaskedLM",
    "causal-lm": "BertLMHeadModel",
    "sequence-classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
    "question-answering": "BertForQuestionAnswering",
    "multiple-choice": "BertForMultipleChoice",
}
POOLED = ("base", "pretraining", "sequence-classification", "multiple-choice")


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms. With `is_decoder`, a causal-lm has a causal mask."""
    refuse(raw, {**NOWHERE, "position_embedding_type": ("absolute", None)})
    causal = head == "causal-lm" and flag(raw, "is_decoder", default=False)
    if not causal:
        refuse(raw, {"is_decoder": (False, None)})
    d_model, eps = whole(raw, "hidden_size"), number(raw, "layer_norm_eps", 1e-12)
    dropout = number(raw, "hidden_dropout_prob", 0.1)
    stack = StackConfig(
        layers=whole(raw, "num_hidden_layers"),
        d_model=d_model,
        heads=whole(raw, "num_attention_heads"),
        d_ffn=whole(raw, "intermediate_size"),
        norm_order="post",
        norm_eps=eps,
        final_norm=False,
        activation=activation(raw, "hidden_act", "gelu"),
        causal=causal,
        dropout=dropout,
        attention_dropout=number(raw, "attention_probs_dropout_prob", 0.1),
    )
    embed = TokenEmbeddingConfig(
        vocab_size=whole(raw, "vocab_size"),
        d_model=d_model,
        positions="learned",
        max_positions=whole(raw, "max_position_embeddings"),
        token_types="learned",
        type_vocab_size=whole(raw, "type_vocab_size", 2),
        norm_eps=eps,
        dropout=dropout,
    )
    return TransformerConfig(
        embed=embed,
        encoder=None if causal else stack,
        decoder=stack if causal else None,
        head=_head(raw, head, eps),
        pooler=head in POOLED,
    )


def _head(raw: Raw, head: str, eps: float) -> HeadConfig | None:
    def language_model(task: str) -> LanguageModelConfig:
        return LanguageModelConfig(
            task=task,  # type: ignore[arg-type]
            tied=flag(raw, "tie_word_embeddings", default=True),
            bias=True,
            transform=activation(raw, "hidden_act", "gelu"),
            norm_eps=eps,
        )

    hidden_dropout = number(raw, "hidden_dropout_prob", 0.1)
    dropout = number(raw, "classifier_dropout", hidden_dropout)
    match head:
        case "pretraining":
            return PretrainingConfig(lm=language_model("masked-lm"))
        case "masked-lm" | "causal-lm":
            return language_model(head)
        case "sequence-classification":
            return SequenceClassificationConfig(num_labels=num_labels(raw), reads="pooler", bias=True, dropout=dropout)
        case "token-classification":
            return TokenClassificationConfig(num_labels=num_labels(raw), dropout=dropout)
        case "question-answering":
            return QuestionAnsweringConfig()
        case "multiple-choice":
            return MultipleChoiceConfig(dropout=dropout)
    return None


LAYER = "encoder.layer.{i}"
OURS = "{stack}.layers.{i}"


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a BERT file. Tied, the head's matrix is the token table, and `cls.predictions.bias` its bias."""
    tied = config.lm is None or config.lm.tied
    bias, decoder_bias = "cls.predictions.bias", "cls.predictions.decoder.bias"
    return [
        Map("embeddings.word_embeddings.weight", "embed.tokens.weight"),
        Map("embeddings.position_embeddings.weight", "embed.positions.weight"),
        Map("embeddings.token_type_embeddings.weight", "embed.types.weight"),
        Map("embeddings.LayerNorm.{wb}", "embed.norm.{wb}"),
        Map(f"{LAYER}.attention.self.query.{{wb}}", f"{OURS}.self_attn.q.{{wb}}"),
        Map(f"{LAYER}.attention.self.key.{{wb}}", f"{OURS}.self_attn.k.{{wb}}"),
        Map(f"{LAYER}.attention.self.value.{{wb}}", f"{OURS}.self_attn.v.{{wb}}"),
        Map(f"{LAYER}.attention.output.dense.{{wb}}", f"{OURS}.self_attn.o.{{wb}}"),
        Map(f"{LAYER}.attention.output.LayerNorm.{{wb}}", f"{OURS}.self_attn_norm.{{wb}}"),
        Map(f"{LAYER}.intermediate.dense.{{wb}}", f"{OURS}.ffn.up.{{wb}}"),
        Map(f"{LAYER}.output.dense.{{wb}}", f"{OURS}.ffn.down.{{wb}}"),
        Map(f"{LAYER}.output.LayerNorm.{{wb}}", f"{OURS}.ffn_norm.{{wb}}"),
        Map("pooler.dense.{wb}", "pooler.{wb}"),
        Map("cls.predictions.transform.dense.{wb}", "head.lm.dense.{wb}"),
        Map("cls.predictions.transform.LayerNorm.{wb}", "head.lm.norm.{wb}"),
        Map("cls.predictions.decoder.weight", "head.lm.weight"),
        Map(bias if tied else decoder_bias, "head.lm.bias"),
        Map("cls.seq_relationship.{wb}", "head.nsp.{wb}"),
        Map("classifier.{wb}", "head.cls.{wb}"),
        Map("qa_outputs.{wb}", "head.qa.{wb}"),
        Tie("cls.predictions.decoder.weight", "embed.tokens.weight"),
        Tie(decoder_bias, "head.lm.bias") if tied else Copy(bias, "head.lm.bias", "an untied head uses decoder.bias"),
        Alias(r"LayerNorm\.gamma$", "LayerNorm.weight"),
        Alias(r"LayerNorm\.beta$", "LayerNorm.bias"),
        Ignore(r"embeddings\.(position_ids|token_type_ids)$", "a buffer: 0, 1, 2, …"),
        Ignore(r"^(bert\.)?pooler\.", "this head does not read the pooler"),
        Ignore(r"^(cls|classifier|qa_outputs)\.", "belongs to another head"),
    ]


BERT = Family(model_type="bert", prefix="bert.", classes=CLASSES, config=config, rules=rules)
