"""Reading config.json: each field checked as it is read, and a refusal for what would change the numbers unseen."""

from collections.abc import Mapping
from typing import Any

from minitransformer.config import Activation
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
}

_NEEDED = object()
LARGEST = 2**28  # of any size in a config: beyond it, sizes of tensors no longer fit into 64 bits


def whole(raw: Raw, field: str, default: Any = _NEEDED) -> int:
    """A whole number; without a default the field must be there."""
    value = _get(raw, field, default)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
        raise ConfigError(f"config.json: {field}: got {value!r}, expected a whole number up to {LARGEST}")
    return value


def number(raw: Raw, field: str, default: float) -> float:
    """A number."""
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


def num_labels(raw: Raw) -> int:
    """How many labels the config names; 2 where it names none."""
    names = raw.get("id2label")
    if names is None:
        return whole(raw, "num_labels", 2)
    if not isinstance(names, Mapping) or not names:
        raise ConfigError(f'config.json: id2label: got {names!r}, expected an object such as {{"0": "no", "1": "yes"}}')
    return len(names)


def refuse(raw: Raw, supported: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise a ConfigError for a field whose value is not among the supported ones. An absent field is supported."""
    for field, values in supported.items():
        if field in raw and not any(raw[field] == value and type(raw[field]) is type(value) for value in values):
            wanted = " or ".join(repr(value) for value in values)
            raise ConfigError(
                f"config.json: {field}: got {raw[field]!r}, expected {wanted}; anything else changes the numbers in a "
                f"way that is not implemented"
            )


# What no family takes: weights in another form, code from the repository, heads cut out of the matrices.
NOWHERE: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "auto_map": (None,),
    "pruned_heads": (None, {}),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
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
