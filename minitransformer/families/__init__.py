"""One file for each checkpoint family: its config in our terms, and its names. No torch here; no names elsewhere."""

from collections.abc import Mapping
from typing import Any

from minitransformer.errors import ConfigError
from minitransformer.families.bert import BERT
from minitransformer.families.gpt2 import GPT2
from minitransformer.families.rules import Alias, Copy, Family, Ignore, Map, Rule, Split, Tie

__all__ = ["FAMILIES", "Alias", "Copy", "Family", "Ignore", "Map", "Rule", "Split", "Tie", "family_of", "head_of"]

FAMILIES = {family.model_type: family for family in (BERT, GPT2)}


def family_of(raw: Mapping[str, Any]) -> Family:
    """The family that a config.json belongs to."""
    name = raw.get("model_type")
    if isinstance(name, str) and name in FAMILIES:
        return FAMILIES[name]
    known = ", ".join(FAMILIES)
    if name is None:
        raise ConfigError(
            f"config.json: model_type is missing, expected one of {known}; "
            f"give it: load(name, config={{'model_type': ...}})"
        )
    raise ConfigError(f"config.json: model_type: got {name!r}, expected one of {known}")


def head_of(raw: Mapping[str, Any], family: Family) -> str:
    """The head that a config.json's `architectures` names; "base" where it names none."""
    classes = raw.get("architectures") or [family.classes["base"]]
    if not isinstance(classes, list) or not isinstance(classes[0], str):
        raise ConfigError(f"config.json: architectures: got {classes!r}, expected a list with one class name")
    heads = [head for head, name in family.classes.items() if name == classes[0]]
    if not heads:
        raise ConfigError(
            f"config.json: architectures: got {classes[0]!r}, expected one of {', '.join(family.classes.values())}; "
            f"choose a head yourself: load(name, head=...), one of {', '.join(family.classes)}"
        )
    return heads[0]
