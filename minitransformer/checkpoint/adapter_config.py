"""adapter_config.json: what peft says of a LoRA beside its weights. Written for peft, and read with distrust."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minitransformer.errors import ConfigError
from minitransformer.storage import read_json
from minitransformer.storage.files import quote

CONFIG = "adapter_config.json"
TASKS = {  # our head -> peft's word for what the model does, which says what its forward pass takes
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
    "base": "FEATURE_EXTRACTION",
    "encoder": "FEATURE_EXTRACTION",
}
LARGEST = 2**16  # of a rank
# Fields that change neither a weight nor how it is used, besides those that are read here.
WITHOUT_EFFECT = {
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "fan_in_fan_out", "init_lora_weights", "megatron_config", "megatron_core", "loftq_config", "eva_config",
    "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config", "ensure_weight_tying",
    "exclude_modules", "layers_to_transform", "layers_pattern",
}  # fmt: skip
READ = {
    "r", "lora_alpha", "lora_dropout", "use_rslora", "bias", "target_modules", "modules_to_save", "rank_pattern",
    "alpha_pattern",
}  # fmt: skip
LEAVE_THE_BASE = (True, False, "gaussian", "orthogonal", "eva", None)  # first values that change no weight of the base


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """What the file says of its LoRAs."""

    rank: int
    alpha: float
    dropout: float
    rank_stabilised: bool
    targets: tuple[str, ...] | None  # None: not said by name, or said for some layers only
    saved: tuple[str, ...]  # modules that are in the file as a whole
    ranks: Mapping[str, int] = field(default_factory=dict)  # module -> its own rank
    alphas: Mapping[str, float] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """The rank of a module's LoRA."""
        return _first(self.ranks, module, self.rank)

    def alpha_of(self, module: str) -> float:
        """The alpha of a module's LoRA."""
        return _first(self.alphas, module, self.alpha)


def read_adapter_json(folder: Path) -> dict[str, Any]:
    """The file as it is, and its kind a text."""
    raw = read_json(folder / CONFIG)
    if not isinstance(raw.get("peft_type"), str):
        raise ConfigError(f"{CONFIG}: peft_type: got {quote(raw.get('peft_type'))}, expected a name such as 'LORA'")
    return raw


def read_lora_config(raw: Mapping[str, Any]) -> LoRAConfig:
    """What an adapter_config.json says, checked; a ConfigError for all that would be computed otherwise."""
    if raw["peft_type"] != "LORA":
        raise ConfigError(f"{CONFIG}: peft_type: got {quote(raw['peft_type'])}, expected 'LORA'; peft has more kinds")
    for name in sorted(raw.keys() - READ - WITHOUT_EFFECT):
        _check(not raw[name], name, raw[name], "nothing: this is not supported; merge it with peft and load the result")
    _check(raw.get("bias", "none") == "none", "bias", raw.get("bias"), "'none'; merge it with peft and load the result")
    first = raw.get("init_lora_weights", True)
    hint = f"one of {LEAVE_THE_BASE}: others change the base's weights; let peft convert it to a plain LoRA"
    _check(isinstance(first, bool | str | None) and first in LEAVE_THE_BASE, "init_lora_weights", first, hint)
    everywhere = not raw.get("layers_to_transform") and not raw.get("exclude_modules")
    targets = raw.get("target_modules")
    dropout = check_number("lora_dropout", raw.get("lora_dropout", 0.0))
    _check(0 <= dropout < 1, "lora_dropout", dropout, "from 0, below 1")
    return LoRAConfig(
        rank=check_size("r", raw.get("r", 8)),
        alpha=check_number("lora_alpha", raw.get("lora_alpha", 8)),
        dropout=dropout,
        rank_stabilised=_flag("use_rslora", raw.get("use_rslora", False)),
        targets=None if isinstance(targets, str) or not everywhere else _names("target_modules", targets),
        saved=_names("modules_to_save", raw.get("modules_to_save")),
        ranks={name: check_size("rank_pattern", rank) for name, rank in _pattern(raw, "rank_pattern")},
        alphas={name: check_number("alpha_pattern", alpha) for name, alpha in _pattern(raw, "alpha_pattern")},
    )


def lora_config_fields(config: LoRAConfig, *, base: str, task: str, fan_in_fan_out: bool) -> dict[str, Any]:
    """The fields of an adapter_config.json. `fan_in_fan_out`: transformers keeps these matrices as [in, out]."""
    return {
        "peft_type": "LORA",
        "task_type": TASKS.get(task),
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": _short(config.alpha),
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilised,
        "fan_in_fan_out": fan_in_fan_out,
        "bias": "none",
        "target_modules": list(config.targets or ()),
        "modules_to_save": list(config.saved) or None,
        "rank_pattern": dict(config.ranks),
        "alpha_pattern": {name: _short(alpha) for name, alpha in config.alphas.items()},
    }


def check_size(name: str, value: Any) -> int:
    """A rank or a width, from the file."""
    _check(type(value) is int and 0 < value <= LARGEST, name, value, f"a whole number from 1 to {LARGEST}")
    return int(value)


def check_number(name: str, value: Any) -> float:
    """A finite number, from the file."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
    _check(right and math.isfinite(value), name, value, f"a number up to {LARGEST}")
    return float(value)


def _flag(name: str, value: Any) -> bool:
    _check(isinstance(value, bool), name, value, "true or false")
    return bool(value)


def _names(name: str, value: Any) -> tuple[str, ...]:
    value = [] if value is None else value
    right = isinstance(value, list) and all(isinstance(one, str) and one for one in value)
    _check(right, name, value, "a list of names of modules")
    return tuple(value)


def _pattern(raw: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    """The members of a pattern. Its names are regular expressions to peft; only those that are plain names are taken.

    A regular expression from a stranger can be made to run for ever.
    """
    pattern = raw.get(name) or {}
    _check(isinstance(pattern, dict), name, pattern, "an object of names of modules")
    for key in pattern:
        _check(re.fullmatch(r"\^?[\w.]+", key) is not None, name, key, "the name of a module, no regular expression")
    return list(pattern.items())


def _first(pattern: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """What the first name in `pattern` says that is the module's, or the end of it."""
    for name, value in pattern.items():
        if module == name.removeprefix("^") or (name[0] != "^" and module.endswith(f".{name}")):
            return value
    return otherwise


def _short(x: float) -> float:
    return int(x) if x == int(x) else x


def _check(right: bool, name: str, value: object, expected: str) -> None:
    if not right:
        raise ConfigError(f"{CONFIG}: {name}: got {quote(value)}, expected {expected}")
