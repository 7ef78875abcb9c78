"""The numbers of a run. Imports no torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from types import NoneType
from typing import Any, get_args, get_type_hints

from minitransformer.errors import ConfigError

CHOICES = {
    "optimizer": ("adamw", "sgd", "adafactor"),
    "schedule": ("linear", "cosine", "constant", "polynomial", "inverse_sqrt"),
    "dtype": ("float32", "bfloat16", "float16"),
}
MOST_EPOCHS, MOST_STEPS = 10_000, 10_000_000  # a run is planned in advance


def _option(default: Any, about: str) -> Any:
    """A field of the recipe, and what it means: the command line says it, too."""
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train. A run is a function of weights, rows, recipe and step alone."""

    # What trains.
    train: str = _option("all", "What trains: all, head, top:N, layers:0,3-5, encoder, decoder, bias, lora, adapter.")
    unfreeze_every: float = _option(0.0, "Epochs until one more layer trains, from the top down; 0: all at once.")
    reinitialise_top: int = _option(0, "So many of the last layers get new first values.")
    lora_rank: int = _option(8, "The rank of what LoRA adds to a matrix.")
    lora_alpha: float = _option(16.0, "What LoRA adds is scaled by alpha / rank.")
    lora_dropout: float = _option(0.0, "Dropout before what LoRA adds.")
    lora_targets: str = _option("q,v", "Which matrices of a block LoRA adds to, among q, k, v, o, up, gate, down.")
    adapter_size: int = _option(64, "The width of a bottleneck adapter.")

    # How long, and how much at once.
    epochs: float = _option(3.0, "How often each row is seen.")
    steps: int | None = _option(None, "How many steps, in place of epochs.")
    batch_size: int = _option(32, "Rows in a step.")
    batch_tokens: int | None = _option(None, "Tokens in a step, padding included, in place of the batch size.")
    micro_batch_size: int | None = _option(None, "Rows computed at once: fewer need less memory for the same gradient.")

    # How each step goes.
    optimizer: str = _option("adamw", "adamw, sgd or adafactor.")
    learning_rate: float | None = _option(None, "The highest rate; by default what is usual for what trains.")
    head_learning_rate: float | None = _option(None, "The head's; by default that of the rest.")
    layer_decay: float = _option(1.0, "Each layer's rate is that of the one above it times this.")
    schedule: str = _option("linear", "After the warm-up: linear, cosine, constant, polynomial, inverse_sqrt.")
    warmup: float = _option(0.1, "The steps in which the rate rises: a share if below 1, else a number.")
    weight_decay: float = _option(0.01, "On matrices; not on biases and norms.")
    beta1: float = _option(0.9, "AdamW: how much of the mean gradient stays from step to step; SGD: the momentum.")
    beta2: float = _option(0.999, "AdamW: how much of the mean squared gradient stays.")
    eps: float = _option(1e-8, "AdamW: added to what the step is divided by.")
    max_grad_norm: float = _option(1.0, "A longer gradient is cut to this length.")
    label_smoothing: float = _option(0.0, "The share of certainty that is spread over all classes.")
    class_weights: str | None = _option(None, 'How much classes count: "auto", as rare as they are, or "spam=2,ham=1".')

    # What is read, and written.
    max_length: int | None = _option(None, "Tokens kept of each text; by default as many as the model takes.")
    max_target_length: int = _option(128, "Tokens of what the model is to write.")
    generation: str = _option("", "How it writes, if not as generation_config.json says: 'num_beams=4,min_length=0'.")
    stride: int | None = _option(None, "Tokens that the windows of a long text share; by default the task's own.")
    prefix: str = _option("", "Put before each source text, such as 'summarize: '.")
    chat_template: str | None = _option(None, "Jinja, or a file of it: for dialogue with a model that has no template.")
    flip: bool = _option(False, "Show half of the images as in a mirror.")

    # How it is computed.
    dtype: str = _option(
        "float32", "Of the forward and backward pass: float32, bfloat16 or float16; weights stay float32."
    )
    recompute: bool = _option(False, "Compute activations again in the backward pass, rather than keep them.")
    compile: bool = _option(False, "Compile the model with torch.compile.")
    shard: bool = _option(False, "Spread the weights over the processes (FSDP), for a model too large for one GPU.")
    deterministic: bool = _option(False, "On a GPU the same bits each time, more slowly.")

    # How it is judged and kept.
    evaluate_every: float = _option(1.0, "Epochs from one evaluation to the next.")
    metric: str | None = _option(None, "Which score is to be best; by default the task's own.")
    patience: int | None = _option(None, "Stop after so many evaluations without a better one.")
    save_every: int | None = _option(None, "Steps between checkpoints, besides those after each evaluation.")
    keep: int = _option(2, "Checkpoints that are kept, besides the best.")
    seed: int = _option(0, "Decides order, dropout, new weights and the split: same seed, same run.")

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Recipe).items():
            kinds = get_args(kind) or (kind,)
            allowed = (*kinds, int) if float in kinds else kinds
            value = getattr(self, name)
            right = isinstance(value, allowed) and (bool in kinds or not isinstance(value, bool))
            _check(name, value, " or ".join("nothing" if each is NoneType else each.__name__ for each in kinds), right)
        for name in ("lora_rank", "adapter_size", "batch_size", "keep"):
            _check(name, getattr(self, name), "1 or more", getattr(self, name) >= 1)
        for name in ("batch_tokens", "micro_batch_size", "patience", "save_every"):
            _check_if_given(self, name, "1 or more", lambda value: value >= 1)
        for name in ("learning_rate", "head_learning_rate"):
            _check_if_given(self, name, "above 0", lambda value: 0 < value < math.inf)
        _check("epochs", self.epochs, f"above 0, up to {MOST_EPOCHS:,}", 0 < self.epochs <= MOST_EPOCHS)
        _check_if_given(self, "steps", f"1 to {MOST_STEPS:,}", lambda value: 1 <= value <= MOST_STEPS)
        for name in ("lora_alpha", "layer_decay", "eps", "max_grad_norm", "evaluate_every"):
            _check(name, getattr(self, name), "above 0", 0 < getattr(self, name) < math.inf)
        for name in ("unfreeze_every", "reinitialise_top", "warmup", "weight_decay"):
            _check(name, getattr(self, name), "0 or more", 0 <= getattr(self, name) < math.inf)
        for name in ("lora_dropout", "beta1", "beta2", "label_smoothing"):
            _check(name, getattr(self, name), "from 0, below 1", 0 <= getattr(self, name) < 1)
        _check_if_given(self, "max_length", "3 or more", lambda value: value >= 3)
        _check("max_target_length", self.max_target_length, "2 or more", self.max_target_length >= 2)
        _check_if_given(self, "stride", "0 or more", lambda value: value >= 0)
        for name, known in CHOICES.items():
            _check(name, getattr(self, name), f"one of {', '.join(known)}", getattr(self, name) in known)


def from_json(values: dict[str, object]) -> Recipe:
    """The recipe of a recipe.json. A ConfigError for a field that no recipe has."""
    known = {each.name for each in fields(Recipe)}
    unknown = sorted(set(values) - known)
    if unknown:
        close = get_close_matches(unknown[0], known, 1)
        raise ConfigError(f"recipe: unknown {', '.join(unknown)}{f'; did you mean {close[0]}?' if close else ''}")
    return Recipe(**values)  # type: ignore[arg-type]


def schedule(recipe: Recipe, step: int, steps: int) -> float:
    """What the highest rate is multiplied by at a step (from 0): up in a straight line, then as the recipe says.

    linear: down to 0 after the last step. cosine: half a wave, down to 0 (Loshchilov and Hutter 2017). polynomial: a
    parabola down to 0. inverse_sqrt: sqrt(warmup / step), the paper's own (Vaswani et al. 2017, eq. 3).
    """
    warmup = round(recipe.warmup * steps) if recipe.warmup < 1 else min(round(recipe.warmup), steps)
    if step < warmup:
        return (step + 1) / warmup
    left = (steps - step) / (steps - warmup)  # from 1, to 0 after the last step
    match recipe.schedule:
        case "linear":
            return left
        case "cosine":
            return (1 - math.cos(math.pi * left)) / 2
        case "polynomial":
            return left**2
        case "inverse_sqrt":
            return math.sqrt(max(warmup, 1) / (step + 1))
        case _:
            return 1.0  # constant


def _check(name: str, value: object, expected: str, right: bool) -> None:
    if not right:
        raise ConfigError(f"{name}: got {value!r}, expected {expected}")


def _check_if_given(recipe: Recipe, name: str, expected: str, right: Callable[[float], bool]) -> None:
    value = getattr(recipe, name)
    _check(name, value, expected, value is None or right(value))
