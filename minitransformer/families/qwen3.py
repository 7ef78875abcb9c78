"""Qwen3: Llama's model, with norms on queries and keys. Yang et al. 2025, "Qwen3 Technical Report"."""

from dataclasses import replace

from minitransformer.config import TransformerConfig
from minitransformer.families import llama, qwen2
from minitransformer.families.fields import Raw, flag, whole


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms."""
    llama.refuse_layer_types(raw, "full_attention")
    biases = ("qkv", "o") if flag(raw, "attention_bias", default=False) else ()
    width = whole(raw, "head_dim", 128)
    return llama.model(raw, head, biases=biases, qk_norm=True, kv_heads=qwen2.kv_heads(raw), head_width=width)


QWEN3 = replace(
    qwen2.QWEN2,
    model_type="qwen3",
    differs="Llama's with an RMSNorm on each head's queries and keys",
    classes={head: name.replace("Llama", "Qwen3") for head, name in llama.CLASSES.items()},
    config=config,
)
