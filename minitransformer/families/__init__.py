"""One file for each checkpoint family: its config in our terms, and its names. No torch here; no names elsewhere."""

from collections.abc import Mapping
from typing import Any

from minitransformer.errors import ConfigError
from minitransformer.families.albert import ALBERT
from minitransformer.families.bart import BART
from minitransformer.families.bert import BERT
from minitransformer.families.distilbert import DISTILBERT
from minitransformer.families.electra import ELECTRA
from minitransformer.families.gpt import GPT
from minitransformer.families.gpt2 import GPT2
from minitransformer.families.llama import LLAMA
from minitransformer.families.marian import MARIAN
from minitransformer.families.mistral import MISTRAL
from minitransformer.families.qwen2 import QWEN2
from minitransformer.families.qwen3 import QWEN3
from minitransformer.families.roberta import ROBERTA, XLM_ROBERTA
from minitransformer.families.rules import Alias, Copy, Family, Ignore, Map, Rule, Sinusoids, Split, Tie
from minitransformer.families.t5 import T5
from minitransformer.families.vit import DEIT, VIT

__all__ = [
    "FAMILIES",
    "Alias",
    "Copy",
    "Family",
    "Ignore",
    "Map",
    "Rule",
    "Sinusoids",
    "Split",
    "Tie",
    "family_of",
    "head_of",
]

ENCODERS = (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, ALBERT, ELECTRA)
DECODERS = (GPT, GPT2, LLAMA, MISTRAL, QWEN2, QWEN3)
BOTH = (T5, BART, MARIAN)
VISION = (VIT, DEIT)
FAMILIES = {family.model_type: family for family in (*ENCODERS, *DECODERS, *BOTH, *VISION)}


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
