"""Mistral: Llama's model, with a window of attention. Jiang et al. 2023, "Mistral 7B"."""

from dataclasses import replace

from minitransformer.config import TransformerConfig
from minitransformer.families import llama
from minitransformer.families.fields import Raw, optional_whole, whole


def config(raw: Raw, head: str) -> TransformerConfig:
    """config.json and a head's name, in our terms. A window that is not named is 4096 keys wide; null is none."""
    window = None if "sliding_window" in raw and raw["sliding_window"] is None else whole(raw, "sliding_window", 4096)
    kv_heads = optional_whole({"num_key_value_heads": 8, **raw}, "num_key_value_heads")
    llama.refuse_layer_types(raw, "full_attention" if window is None else "sliding_attention")
    return llama.model(raw, head, biases=(), window=window, kv_heads=kv_heads)


MISTRAL = replace(
    llama.LLAMA,
    model_type="mistral",
    differs="Llama's with a sliding window",
    prefixes={},
    classes={head: name.replace("Llama", "Mistral") for head, name in llama.CLASSES.items()},
    config=config,
)
