"""GPT-2. Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"."""

from collections.abc import Sequence
from functools import partial

from minitransformer.config import (
    ClassificationConfig,
    DoubleHeadsConfig,
    HeadConfig,
    LanguageModelConfig,
    StackConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
)
from minitransformer.families.fields import Raw, activation, flag, number, whole
from minitransformer.families.heads import decoder_dropout, last_token, usual_head
from minitransformer.families.rules import Family, Ignore, Map, Rule, Split, Tie

CLASSES = {
    "base": "GPT2Model",
    "causal-lm": "GPT2LMHeadModel",
    "double-heads": "GPT2DoubleHeadsModel",
    "sequence-classification": "GPT2ForSequenceClassification",
    "token-classification": "GPT2ForTokenClassification",
    "question-answering": "GPT2ForQuestionAnswering",
}
SUMMARY = {  # how double heads read the token of a choice
    "summary_type": ("cls_index", None),
    "summary_use_proj": (True, None),
    "summary_activation": (None,),
    "summary_proj_to_labels": (True, None),
}

SYNONYMS = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms."""
    d_model, dropout = whole(raw, "n_embd"), number(raw, "resid_pdrop", 0.1)
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
            d_ffn=4 * d_model if raw.get("n_inner") is None else whole(raw, "n_inner"),
            norm_order="pre",
            norm_eps=number(raw, "layer_norm_epsilon", 1e-5),
            final_norm=True,
            activation=activation(raw, "activation_function", "gelu_new"),
            causal=True,
            score_scale=None if flag(raw, "scale_attn_weights", default=True) else 1.0,
            dropout=dropout,
            ffn_dropout=dropout,
            attention_dropout=number(raw, "attn_pdrop", 0.1),
        ),
        head=_head(raw, head),
    )


def _head(raw: Raw, head: str) -> HeadConfig | None:
    lm = partial(language_model, raw)
    if head == "double-heads":
        return DoubleHeadsConfig(lm=lm("causal-lm"), dropout=number(raw, "summary_first_dropout", 0.1))
    return usual_head(raw, head, language_model=lm, text=last_token(raw), token_dropout=decoder_dropout(raw))


def language_model(raw: Raw, task: str) -> LanguageModelConfig:
    """The head that gives the next token's logits."""
    return LanguageModelConfig(task="causal-lm", tied=flag(raw, "tie_word_embeddings", default=True))


LAYER, OURS = "h.{i}", "decoder.layers.{i}"
QKV = (f"{OURS}.self_attn.q.{{wb}}", f"{OURS}.self_attn.k.{{wb}}", f"{OURS}.self_attn.v.{{wb}}")
# Matrices are [in, out]; queries, keys and values stand side by side in one.
LAYERS_AND_HEADS: list[Rule] = [
    Map(f"{LAYER}.ln_1.{{wb}}", f"{OURS}.self_attn_norm.{{wb}}"),
    Split(f"{LAYER}.attn.c_attn.{{wb}}", QKV, transpose=True),
    Map(f"{LAYER}.attn.c_proj.{{wb}}", f"{OURS}.self_attn.o.{{wb}}", transpose=True),
    Map(f"{LAYER}.ln_2.{{wb}}", f"{OURS}.ffn_norm.{{wb}}"),
    Map(f"{LAYER}.mlp.c_fc.{{wb}}", f"{OURS}.ffn.up.{{wb}}", transpose=True),
    Map(f"{LAYER}.mlp.c_proj.{{wb}}", f"{OURS}.ffn.down.{{wb}}", transpose=True),
    Map("lm_head.weight", "head.lm.weight"),
    Map("multiple_choice_head.summary.{wb}", "head.mc.{wb}"),
    Tie("lm_head.weight", "embed.tokens.weight"),
    Ignore(r"^(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)$", "a buffer: the causal mask"),
    Ignore(r"^(lm_head|score|classifier|qa_outputs|multiple_choice_head)\.", "belongs to another head"),
]


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a GPT-2 file."""
    return [
        Map("wte.weight", "embed.tokens.weight"),
        Map("wpe.weight", "embed.positions.weight"),
        *LAYERS_AND_HEADS,
        Map("ln_f.{wb}", "decoder.final_norm.{wb}"),
        Map("score.{wb}" if isinstance(config.head, ClassificationConfig) else "classifier.{wb}", "head.cls.{wb}"),
        Map("qa_outputs.{wb}", "head.qa.{wb}"),
    ]


GPT2 = Family(
    model_type="gpt2",
    differs="pre-norm decoder, learned positions",
    tokenizer="GPT2Tokenizer",
    prefix="transformer.",
    classes=CLASSES,
    config=config,
    learning_rate=5e-5,
    rules=rules,
    refuses={"scale_attn_by_inverse_layer_idx": (False, None), **SUMMARY},
    synonyms=SYNONYMS,
)
