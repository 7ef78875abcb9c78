"""Qwen2: Llama's model, with biases on queries, keys and values. Yang et al. 2024, "Qwen2 Technical Report"."""

from dataclasses import replace

from minitransformer.config import TransformerConfig
from minitransformer.families import llama
from minitransformer.families.fields import Raw, optional_whole


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms. Layers that see a window only are refused."""
    llama.refuse_layer_types(raw, "full_attention")
    return llama.model(raw, head, biases=("qkv",), kv_heads=kv_heads(raw))


def kv_heads(raw: Raw) -> int | None:
    """How many heads keys and values have: 32 where nothing is said, as many as queries where null is said."""
    return optional_whole({"num_key_value_heads": 32, **raw}, "num_key_value_heads")


QWEN2 = replace(
    llama.LLAMA,
    model_type="qwen2",
    differs="Llama's with biases on queries, keys and values",
    tokenizer="Qwen2Tokenizer",
    classes={head: name.replace("Llama", "Qwen2") for head, name in llama.CLASSES.items()},
    config=config,
    refuses={**llama.LLAMA.refuses, "use_sliding_window": (False, None)},
)
