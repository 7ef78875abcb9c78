"""The names of labels, as a config.json has them."""

from collections.abc import Mapping, Sequence
from typing import Any

from minitransformer.errors import ConfigError
from minitransformer.families.fields import num_labels


def label_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels that a config.json names; LABEL_0, LABEL_1, … where it only counts them."""
    names = raw.get("id2label")
    if isinstance(names, Mapping):
        try:
            return tuple(str(names[key]) for key in sorted(names, key=int))
        except ValueError:
            raise ConfigError(f"config.json: id2label: got the keys {list(names)[:5]}, expected numbers") from None
    return tuple(f"LABEL_{i}" for i in range(num_labels(raw)))


def label_fields(labels: Sequence[str] | int) -> dict[str, Any]:
    """The fields of a config.json that say which labels there are."""
    names: list[str] = []
    if isinstance(labels, int) and not isinstance(labels, bool):
        names = [f"LABEL_{i}" for i in range(labels)]
    elif isinstance(labels, Sequence) and not isinstance(labels, str):
        names = list(labels)
    if len(set(names)) != len(names) or not names:
        raise ConfigError(f"labels: got {labels!r}, expected a number, or a list of at least one name, each once")
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
