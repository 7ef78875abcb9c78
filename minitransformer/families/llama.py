"""Llama. Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models"."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from minitransformer.config import (
    Biased,
    HeadConfig,
    LanguageModelConfig,
    StackConfig,
    TokenEmbeddingConfig,
    TransformerConfig,
)
from minitransformer.errors import ConfigError
from minitransformer.families.fields import Raw, activation, flag, number, optional_whole, refuse, whole
from minitransformer.families.heads import decoder_dropout, last_token, usual_head
from minitransformer.families.rules import Family, Ignore, Map, Rule, Tie

CLASSES = {
    "base": "LlamaModel",
    "causal-lm": "LlamaForCausalLM",
    "sequence-classification": "LlamaForSequenceClassification",
    "token-classification": "LlamaForTokenClassification",
    "question-answering": "LlamaForQuestionAnswering",
}
ROTARY = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1}  # the only kind that is implemented


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms."""
    refuse(raw, {"sliding_window": (None,)})
    refuse_layer_types(raw, "full_attention")
    attention: tuple[Biased, ...] = ("qkv", "o") if flag(raw, "attention_bias", default=False) else ()
    ffn: tuple[Biased, ...] = ("ffn",) if flag(raw, "mlp_bias", default=False) else ()
    return model(raw, head, biases=attention + ffn)


def model(raw: Raw, head: str, **differs: Any) -> TransformerConfig:
    """Llama's model, which Mistral and Qwen share; `differs`: what is otherwise in their blocks."""
    d_model = whole(raw, "hidden_size")
    heads: dict[str, Any] = {
        "kv_heads": optional_whole(raw, "num_key_value_heads"),
        "head_width": optional_whole(raw, "head_dim"),
    }
    return TransformerConfig(
        embed=TokenEmbeddingConfig(
            vocab_size=whole(raw, "vocab_size"),
            d_model=d_model,
            positions=None,
            max_positions=whole(raw, "max_position_embeddings"),
        ),
        decoder=StackConfig(
            layers=whole(raw, "num_hidden_layers"),
            d_model=d_model,
            heads=whole(raw, "num_attention_heads"),
            d_ffn=whole(raw, "intermediate_size"),
            norm="rms",
            norm_order="pre",
            norm_eps=number(raw, "rms_norm_eps", 1e-6),
            final_norm=True,
            activation=activation(raw, "hidden_act", "silu"),
            gated=True,
            causal=True,
            rotary_theta=rotary_theta(raw),
            attention_dropout=number(raw, "attention_dropout", 0.0),
            **{**heads, **differs},
        ),
        head=_head(raw, head),
    )


def rotary_theta(raw: Raw) -> float:
    """The base of the rotary positions, as older and newer configs write it. Stretched positions are refused."""
    said: dict[str, Any] = {}
    for name in ("rope_parameters", "rope_scaling"):
        found = {} if raw.get(name) is None else raw[name]
        if not isinstance(found, dict):
            raise ConfigError(f"config.json: {name}: got {found!r}, expected an object or null")
        usual = all(found.get(field, value) == value for field, value in ROTARY.items())
        if not usual or found.keys() - {*ROTARY, "rope_theta"}:
            raise ConfigError(
                f"config.json: {name}: got {found!r}, expected rope_type 'default' of whole heads; "
                f"anything else changes the numbers in a way that is not implemented"
            )
        if found and said and found != said:
            raise ConfigError(
                f"config.json: {name}: got {found!r}, but rope_parameters is {said!r}; remove one of them"
            )
        said = found or said
    return number({**raw, **said}, "rope_theta", 10000.0)


def refuse_layer_types(raw: Raw, kind: str) -> None:
    """Raise a ConfigError for layers that attend in another way than `kind`: here they are all alike."""
    types = raw.get("layer_types")
    layers = whole(raw, "num_hidden_layers")
    if types is not None and not (isinstance(types, list) and len(types) == layers and types.count(kind) == layers):
        raise ConfigError(
            f"config.json: layer_types: got {types!r}, expected {kind!r} for each layer; anything else changes the "
            f"numbers in a way that is not implemented"
        )


def _head(raw: Raw, head: str) -> HeadConfig | None:
    lm = partial(language_model, raw)
    return usual_head(raw, head, language_model=lm, text=last_token(raw), token_dropout=decoder_dropout(raw))


def language_model(raw: Raw, task: str) -> LanguageModelConfig:
    """The head that gives the next token's logits."""
    return LanguageModelConfig(task="causal-lm", tied=flag(raw, "tie_word_embeddings", default=False))


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a file of Llama's kind."""
    layer, ours = "layers.{i}", "decoder.layers.{i}"
    return [
        Map("embed_tokens.weight", "embed.tokens.weight"),
        Map(f"{layer}.input_layernorm.weight", f"{ours}.self_attn_norm.weight"),
        *(Map(f"{layer}.self_attn.{m}_proj.{{wb}}", f"{ours}.self_attn.{m}.{{wb}}") for m in "qkvo"),
        *(Map(f"{layer}.self_attn.{m}_norm.weight", f"{ours}.self_attn.{m}_norm.weight") for m in "qk"),
        Map(f"{layer}.post_attention_layernorm.weight", f"{ours}.ffn_norm.weight"),
        *(Map(f"{layer}.mlp.{m}_proj.{{wb}}", f"{ours}.ffn.{m}.{{wb}}") for m in ("gate", "up", "down")),
        Map("norm.weight", "decoder.final_norm.weight"),
        Map("lm_head.weight", "head.lm.weight"),
        Map("score.{wb}", "head.cls.{wb}"),
        Map("qa_outputs.{wb}", "head.qa.{wb}"),
        Tie("lm_head.weight", "embed.tokens.weight"),
        Ignore(r"rotary_emb\.inv_freq$", "a buffer: the rotary positions' frequencies"),
        Ignore(r"^(lm_head|score|qa_outputs)\.", "belongs to another head"),
    ]


LLAMA = Family(
    model_type="llama",
    differs="pre-RMSNorm decoder, rotary positions, grouped-query attention, gated SiLU, no biases",
    tokenizer="LlamaTokenizer",
    prefix="model.",
    prefixes={"question-answering": "transformer."},
    classes=CLASSES,
    config=config,
    rules=rules,
    refuses={"partial_rotary_factor": (1.0, 1, None), "token_classification_bias": (True, None)},
)
