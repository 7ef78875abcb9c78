"""GPT, the first. Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training"."""

from collections.abc import Sequence
from dataclasses import replace

from minitransformer.config import Activation, DoubleHeadsConfig, TransformerConfig
from minitransformer.errors import ConfigError
from minitransformer.families import gpt2
from minitransformer.families.fields import Raw
from minitransformer.families.rules import Copy, Family, Ignore, Map, Rule

CLASSES = {
    "base": "OpenAIGPTModel",
    "causal-lm": "OpenAIGPTLMHeadModel",
    "double-heads": "OpenAIGPTDoubleHeadsModel",
    "sequence-classification": "OpenAIGPTForSequenceClassification",
}
ACTIVATIONS: dict[str, Activation] = {  # its "gelu" is the approximation
    "gelu": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms: GPT-2's, but for the norms."""
    function = raw.get("afn", "gelu")
    if not isinstance(function, str) or function not in ACTIVATIONS:
        raise ConfigError(f"config.json: afn: got {function!r}, expected one of {', '.join(ACTIVATIONS)}")
    own = {"n_inner": None, "activation_function": function, "scale_attn_weights": True}
    model = gpt2.config({**raw, **own}, head)
    assert model.decoder is not None  # as GPT-2 has one
    decoder = replace(model.decoder, norm_order="post", final_norm=False, activation=ACTIVATIONS[function])
    return replace(model, decoder=decoder)


def rules(config: TransformerConfig) -> Sequence[Rule]:
    """The names of a GPT file, GPT-2's in its blocks."""
    flipped = Copy("lm_head.weight", "embed.tokens.weight", "transformers stores this head's table by this name")
    return [
        Map("tokens_embed.weight", "embed.tokens.weight"),
        Map("positions_embed.weight", "embed.positions.weight"),
        *gpt2.LAYERS_AND_HEADS,
        Map("score.weight", "head.cls.weight"),
        *([flipped] if isinstance(config.head, DoubleHeadsConfig) and config.head.lm.tied else []),
        Ignore(r"^(transformer\.)?position_ids$", "a buffer: 0, 1, 2, …"),
    ]


GPT = Family(
    model_type="openai-gpt",
    differs="post-norm decoder, learned positions",
    tokenizer="OpenAIGPTTokenizer",
    prefix="transformer.",
    classes=CLASSES,
    config=config,
    learning_rate=5e-5,
    rules=rules,
    refuses=gpt2.SUMMARY,
    synonyms=gpt2.SYNONYMS,
)
