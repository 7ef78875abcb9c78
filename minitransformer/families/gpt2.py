"""GPT-2. Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"."""

from collections.abc import Sequence

from minitransformer.config import (
    HeadConfig,
    LanguageModelConfig,
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
    optional_whole,
    refuse,
    whole,
)
from minitransformer.families.rules import Family, Ignore, Map, Rule, Split, Tie

CLASSES = {
    "base": "GPT2Model",
    "causal-lm": "GPT2LMHeadModel",
    "sequence-classification": "GPT2ForSequenceClassification",
    "token-classification": "GPT2ForTokenClassification",
    "question-answering": "GPT2ForQuestionAnswering",
}


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms."""
    refuse(raw, {**NOWHERE, "scale_attn_by_inverse_layer_idx": (False, None)})
    d_model, eps = whole(raw, "n_embd"), number(raw, "layer_norm_epsilon", 1e-5)
    return TransformerConfig(
        embed=TokenEmbeddingConfig(
            vocab_size=whole(raw, "vocab_size"),
            d_model=d_model,
            positions="learned",
            max_positions=whole(raw, "n_positions"),
            token_types="tokens",
            dropout=number(raw, "embd_pdrop", 0.1),
        ),
        decoder=StackConfig(
            layers=whole(raw, "n_layer"),
            d_model=d_model,
            heads=whole(raw, "n_head"),
            d_ffn=optional_whole(raw, "n_inner") or 4 * d_model,
            norm_order="pre",
            norm_eps=eps,
            final_norm=True,
            activation=activation(raw, "activation_function", "gelu_new"),
            causal=True,
            score_scale=None if flag(raw, "scale_attn_weights", default=True) else 1.0,
            dropout=number(raw, "resid_pdrop", 0.1),
            attention_dropout=number(raw, "attn_pdrop", 0.1),
        ),
        head=_head(raw, head),
    )


def _head(raw: Raw, head: str) -> HeadConfig | None:
    match head:
        case "causal-lm":
            return LanguageModelConfig(task="causal-lm", tied=flag(raw, "tie_word_embeddings", default=True))
        case "sequence-classification":
            return SequenceClassificationConfig(
                num_labels=num_labels(raw), reads="last_token", bias=False, pad_id=optional_whole(raw, "pad_token_id")
            )
        case "token-classification":
            dropout = number(raw, "classifier_dropout", number(raw, "hidden_dropout", 0.1))
            return TokenClassificationConfig(num_labels=num_labels(raw), dropout=dropout)
        case "question-answering":
            return QuestionAnsweringConfig()
    return None


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a GPT-2 file. Its matrices are [in, out]; queries, keys and values stand side by side in one."""
    layer, ours = "h.{i}", "decoder.layers.{i}"
    classifier = "score.{wb}" if isinstance(config.head, SequenceClassificationConfig) else "classifier.{wb}"
    qkv = (f"{ours}.self_attn.q.{{wb}}", f"{ours}.self_attn.k.{{wb}}", f"{ours}.self_attn.v.{{wb}}")
    return [
        Map("wte.weight", "embed.tokens.weight"),
        Map("wpe.weight", "embed.positions.weight"),
        Map(f"{layer}.ln_1.{{wb}}", f"{ours}.self_attn_norm.{{wb}}"),
        Split(f"{layer}.attn.c_attn.{{wb}}", qkv, transpose=True),
        Map(f"{layer}.attn.c_proj.{{wb}}", f"{ours}.self_attn.o.{{wb}}", transpose=True),
        Map(f"{layer}.ln_2.{{wb}}", f"{ours}.ffn_norm.{{wb}}"),
        Map(f"{layer}.mlp.c_fc.{{wb}}", f"{ours}.ffn.up.{{wb}}", transpose=True),
        Map(f"{layer}.mlp.c_proj.{{wb}}", f"{ours}.ffn.down.{{wb}}", transpose=True),
        Map("ln_f.{wb}", "decoder.final_norm.{wb}"),
        Map("lm_head.weight", "head.lm.weight"),
        Map(classifier, "head.cls.{wb}"),
        Map("qa_outputs.{wb}", "head.qa.{wb}"),
        Tie("lm_head.weight", "embed.tokens.weight"),
        Ignore(r"^(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)$", "a buffer: the causal mask"),
        Ignore(r"^(lm_head|score|classifier|qa_outputs|multiple_choice_head)\.", "belongs to another head"),
    ]


GPT2 = Family(model_type="gpt2", prefix="transformer.", classes=CLASSES, config=config, rules=rules)
