"""Reading config.json: each field checked as it is read, and a refusal for what would change the numbers unseen."""

from collections.abc import Mapping
from typing import Any

from minitransformer.config import Activation, PatchEmbeddingConfig, TransformerConfig
from minitransformer.errors import ConfigError

Raw = Mapping[str, Any]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}

_NEEDED = object()
LARGEST = 2**28  # of any size in a config: beyond it, sizes of tensors no longer fit into 64 bits


def whole(raw: Raw, field: str, default: Any = _NEEDED) -> int:
    """A whole number; without a default the field must be there."""
    value = _get(raw, field, default)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
        raise ConfigError(f"config.json: {field}: got {value!r}, expected a whole number up to {LARGEST}")
    return value


def number(raw: Raw, field: str, default: Any = _NEEDED) -> float:
    """A number; without a default the field must be there."""
    value = _get(raw, field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST:
        raise ConfigError(f"config.json: {field}: got {value!r}, expected a number up to {LARGEST}")
    return float(value)


def flag(raw: Raw, field: str, default: bool) -> bool:
    """True or false."""
    value = _get(raw, field, default)
    if not isinstance(value, bool):
        raise ConfigError(f"config.json: {field}: got {value!r}, expected true or false")
    return value


def optional_whole(raw: Raw, field: str) -> int | None:
    """A whole number, or None where the field is null or absent."""
    return None if raw.get(field) is None else whole(raw, field)


def activation(raw: Raw, field: str, default: str) -> Activation:
    """The activation that a config's name means."""
    value = _get(raw, field, default)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise ConfigError(f"config.json: {field}: got {value!r}, expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def two_wholes(raw: Raw, field: str, default: Any = _NEEDED) -> tuple[int, int]:
    """Height and width: two whole numbers, or one for both."""
    value = _get(raw, field, default)
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
    first, second = (whole({field: side}, field) for side in sides)
    return first, second


def num_labels(raw: Raw, default: int = 2) -> int:
    """How many labels the config names; `default` where it names none."""
    names = raw.get("id2label")
    if names is None:
        return whole(raw, "num_labels", default)
    if not isinstance(names, Mapping) or not names:
        raise ConfigError(f'config.json: id2label: got {names!r}, expected an object such as {{"0": "no", "1": "yes"}}')
    if raw.get("num_labels") not in (None, len(names)):
        raise ConfigError(
            f"config.json: num_labels: got {raw['num_labels']!r}, but id2label names {len(names)} labels; "
            f"say which is right: load(name, labels=...)"
        )
    return len(names)


def check_problem_type(raw: Raw, labels: int) -> None:
    """Raise a ConfigError for a loss that a classifier of so many labels does not have here."""
    one, several = ("regression", None), ("single_label_classification", "multi_label_classification", None)
    refuse(raw, {"problem_type": one if labels == 1 else several})


def one_name(raw: Raw, synonyms: Mapping[str, str]) -> dict[str, Any]:
    """The config with each field under one name; a ConfigError where two names of a field disagree."""
    found = dict(raw)
    for other, field in synonyms.items():
        if raw.get(other) is None:
            continue
        if raw.get(field) not in (None, raw[other]):
            raise ConfigError(
                f"config.json: {field}: got {raw[field]!r}, but {other}, another name for it, is {raw[other]!r}; "
                f"remove one of them"
            )
        found[field] = raw[other]
    return found


def refuse(raw: Raw, supported: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise a ConfigError for a field whose value is not among the supported ones. An absent field is supported."""
    for field, values in supported.items():
        if field in raw and not any(raw[field] == value and type(raw[field]) is type(value) for value in values):
            wanted = " or ".join(repr(value) for value in values)
            raise ConfigError(
                f"config.json: {field}: got {raw[field]!r}, expected {wanted}; anything else changes the numbers in a "
                f"way that is not implemented"
            )


def check_sizes(config: TransformerConfig) -> None:
    """Raise a ConfigError for a side of a tensor that is beyond all measure, where it is a product of sizes."""
    sides = {}
    for stack in (config.encoder, config.decoder):
        if stack is not None:
            sides[f"{stack.heads} heads of width {stack.d_head}"] = stack.heads * stack.d_head
    if isinstance(config.embed, PatchEmbeddingConfig):
        (height, width), channels = config.embed.patch_size, config.embed.channels
        sides[f"image_size {config.embed.image_size} and patch_size {(height, width)}"] = config.embed.length
        sides[f"patches of {channels} × {height} × {width} numbers"] = channels * height * width
    for what, size in sides.items():
        if size > LARGEST:
            raise ConfigError(f"config.json: got {what}, which makes {size}, expected up to {LARGEST}")


# What no family takes: weights in another form or file, code from the repository, heads cut out of the matrices,
# layers that differ from one another.
NOWHERE: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "auto_map": (None,),
    "pruned_heads": (None, {}),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_causal": (True, None),
    "per_layer_config": (None, {}),
    "tie_last_hidden_states": (True, None),
    "transformers_weights": (None,),
}


COMPOSED = {  # sizes that are made of several fields, under one name or another
    "heads": ("num_attention_heads", "num_heads", "head_dim", "d_kv"),
    "kv_heads": ("num_key_value_heads", "head_dim"),
    "positions": ("max_position_embeddings", "n_positions"),
    "patches": ("image_size", "patch_size"),
}


def _get(raw: Raw, field: str, default: Any) -> Any:
    value = raw.get(field)
    if value is not None:
        return value
    if default is _NEEDED:
        raise ConfigError(
            f"config.json: {field} is missing, and a guess would give wrong numbers; "
            f"give it: load(name, config={{{field!r}: ...}})"
        )
    return default
