"""Which weights train, and at which rate: all, the top, biases alone, or a few new ones beside the old."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from minitransformer.errors import ConfigError
from minitransformer.finetune.recipe import Recipe
from minitransformer.model import Transformer
from minitransformer.model.adapters import adapted_layers, add_adapters, add_lora, names_beside
from minitransformer.model.initialise import redraw
from minitransformer.model.stack import Stack
from minitransformer.modules.adapters import AdapterLinear, LoRALinear

FORMS = "all, head, top:N, layers:0,3-5, encoder, decoder, bias, lora or adapter"
LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.")
TOKENS = ("embed.class_token", "embed.distillation_token")  # vectors, but each is the row of a table


def prepare(model: Transformer, recipe: Recipe) -> None:
    """Make the model what the recipe trains: new first values, adapters, and all that does not train frozen."""
    there = {type(layer) for _, layer in adapted_layers(model)}
    mixed = AdapterLinear in there and recipe.train not in ("head", "adapter")
    if mixed or (LoRALinear in there and recipe.train == "adapter"):
        raise ConfigError(
            f"train: got {recipe.train!r}, but the model has an adapter of another kind, and no folder holds both; "
            f"begin with its base, or train='head'"
        )
    if recipe.reinitialise_top:
        reinitialise_top(model, recipe.reinitialise_top)
    if recipe.train == "lora":
        targets = [target.strip() for target in recipe.lora_targets.split(",")]
        add_lora(model, rank=recipe.lora_rank, alpha=recipe.lora_alpha, dropout=recipe.lora_dropout, targets=targets)
    if recipe.train == "adapter":
        add_adapters(model, recipe.adapter_size)
    choose(model, recipe.train)
    if recipe.unfreeze_every and not trainable_at(model, recipe.train, recipe.unfreeze_every, 0.0):
        raise ConfigError(
            "unfreeze_every: at first the head alone trains, and this model has none of its own; leave it out"
        )


def choose(model: Transformer, train: str) -> list[str]:
    """Let what `train` says train, and freeze the rest. Returns the names of what trains."""
    return _only(model, names_that_train(model, train))


def unfreeze(model: Transformer, recipe: Recipe, epochs: float) -> bool:
    """Let train what does so after so many epochs of gradual unfreezing. Returns whether that changed anything."""
    if not recipe.unfreeze_every:
        return False
    before = [name for name, x in model.named_parameters() if x.requires_grad]
    return _only(model, trainable_at(model, recipe.train, recipe.unfreeze_every, epochs)) != before


def names_that_train(model: Transformer, train: str) -> list[str]:
    """The names of the weights that `train` means, and of the head, which always trains.

    all. head: nothing else. top:N: the last N blocks (of each stack, where there are two) and the norm behind them.
    layers:0,3-5: the blocks of these numbers, from 0 (of each stack that has them). encoder, decoder: the blocks of one
    stack. bias: all biases (Ben Zaken et al. 2021, "BitFit"). lora, adapter: what add_lora or add_adapters has put in;
    a language model's head stays as it is, then, since it is not new.

    Tables of tokens and positions train with "all" alone, and so does a head that is one of them.
    """
    names = [name for name, _ in model.named_parameters()]
    kind, _, numbers = train.partition(":")
    head = [name for name in names if name.startswith(("head.", "pooler."))]
    match kind:
        case "all" if not numbers:
            return names
        case "head" if not numbers:
            if not head:
                raise ConfigError("train: got 'head', but this model has none of its own; " + _expected(model))
            chosen = set()
        case "top":
            chosen = _top(model, _whole(train, numbers), names)
        case "layers":
            chosen = _layers(model, train, _numbers(train, numbers), names)
        case "encoder" | "decoder" if not numbers and getattr(model, kind) is not None:
            chosen = {name for name in names if name.startswith(f"{kind}.")}
        case "bias" if not numbers:
            chosen = {name for name in names if name.endswith(".bias") and ".adapter_" not in name}
            if not chosen - set(head):
                raise ConfigError("train: got 'bias', but this model has no biases; try lora")
        case "lora" | "adapter" if not numbers:
            chosen, head = _of_adapters(model, kind), []
        case _:
            raise ConfigError(f"train: got {train!r}, {_expected(model)}")
    return [name for name in names if name in chosen or name in set(head)]


def trainable_at(model: Transformer, train: str, unfreeze_every: float, epoch: float) -> list[str]:
    """What of `train` trains after so many epochs: the head at first, then one more block from the top every few.

    The embeddings come last. Howard and Ruder 2018, "ULMFiT", section 3.3.
    """
    refuse_shared(model, "unfreeze_every")
    depth = math.floor(epoch / unfreeze_every + 1e-6)
    return [name for name in names_that_train(model, train) if layers_above(model, name) < depth]


def parameter_groups(model: Transformer, recipe: Recipe) -> list[dict[str, Any]]:
    """The weights that train, by rate and decay, as an optimizer takes them.

    `peak` is the rate that a schedule multiplies. That of a block is learning_rate · layer_decay ** (blocks above it),
    the embeddings stand below the lowest, and the head has a rate of its own if the recipe says so.
    """
    if recipe.layer_decay != 1:
        refuse_shared(model, "layer_decay")
    rate = recipe.learning_rate
    if rate is None:
        raise ConfigError("learning_rate: got None, expected a number")
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = defaultdict(list)
    for name, x in model.named_parameters():
        if x.requires_grad:
            above = layers_above(model, name)
            peak = (recipe.head_learning_rate or rate) if above < 0 else rate * recipe.layer_decay**above
            groups[peak, recipe.weight_decay if decays(name, x) else 0.0].append((name, x))
    if not groups:
        raise ConfigError(f"train: nothing trains; {_expected(model)}")
    return [
        {
            "params": [x for _, x in members],
            "names": [name for name, _ in members],
            "weight_decay": decay,
            "lr": peak,
            "peak": peak,
        }
        for (peak, decay), members in groups.items()
    ]


def decays(name: str, x: Tensor) -> bool:
    """Matrices and tables decay, vectors (biases, norms) do not: a bias pulled to 0 explains nothing more simply.

    Nor does the table of relative biases, each of which is a bias of its own.
    """
    return (x.ndim >= 2 or name in TOKENS) and not name.endswith("relative_bias.weight")


def layers_above(model: Transformer, name: str) -> int:
    """How many blocks stand above this weight's own; -1 for the head, all of the blocks for the embeddings.

    The norm behind the last block belongs to it, the relative positions to the first.
    """
    if name.startswith(("head.", "pooler.")):
        return -1
    stacks = _stacks(model)
    if name.startswith(("embed.", "target_embed.")):
        return _most(model)
    stack, _, rest = name.partition(".")
    if rest.startswith("final_norm."):
        return 0
    number = LAYER.match(name)
    return len(stacks[stack].layers) - 1 - (int(number[2]) if number else 0)


def reinitialise_top(model: Transformer, layers: int) -> None:
    """Draw new values for the last blocks, so many of each stack, and for the pooler.

    Zhang et al. 2020, "Revisiting Few-sample BERT Fine-tuning", section 5: the top of a pretrained model is made for
    its first task, and may be a worse start than none. Values are BERT's, whatever the family.
    """
    refuse_shared(model, "reinitialise_top")
    if not 1 <= layers <= _most(model):
        raise ConfigError(f"reinitialise_top: got {layers}, expected 1 to {_most(model)}, the layers of this model")
    for stack in _stacks(model).values():
        for block in stack.blocks[-layers:]:
            redraw(block)
    if model.pooler is not None:
        redraw(model.pooler)


def refuse_shared(model: Transformer, what: str) -> None:
    """Raise a ConfigError where blocks share weights: there, none of them is the top one."""
    for stack in _stacks(model).values():
        if stack.config.order != tuple(range(len(stack.layers))):
            raise ConfigError(
                f"{what}: the {len(stack.config.order)} layers of this model share weights, so that no layer can be "
                f"told from the others; try all, head, bias or lora"
            )


def _only(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Let the weights of these names train, and no others."""
    wanted = set(names)
    for name, x in model.named_parameters():
        x.requires_grad_(name in wanted)
    return [name for name, _ in model.named_parameters() if name in wanted]


def _stacks(model: Transformer) -> dict[str, Stack]:
    found = {"encoder": model.encoder, "decoder": model.decoder}
    return {name: stack for name, stack in found.items() if stack is not None}


def _most(model: Transformer) -> int:
    """How many blocks the model has: of two stacks, the longer one."""
    return max(len(stack.layers) for stack in _stacks(model).values())


def _top(model: Transformer, count: int, names: list[str]) -> set[str]:
    refuse_shared(model, "train: top")
    if not 1 <= count <= _most(model):
        raise ConfigError(f"train: got 'top:{count}', {_expected(model)}")
    blocks = [name for name in names if name.startswith(("encoder.", "decoder."))]
    return {name for name in blocks if layers_above(model, name) < count}


def _layers(model: Transformer, train: str, numbers: set[int], names: list[str]) -> set[str]:
    refuse_shared(model, "train: layers")
    lengths = {name: len(stack.layers) for name, stack in _stacks(model).items()}
    if not numbers or max(numbers) >= max(lengths.values()):
        raise ConfigError(f"train: got {train!r}, {_expected(model)}")
    own = {f"{stack}.layers.{i}." for stack in lengths for i in numbers}
    own |= {f"{stack}.final_norm." for stack, length in lengths.items() if length - 1 in numbers}
    own |= {f"{stack}.relative_bias." for stack in lengths if 0 in numbers}
    return {name for name in names if name.startswith(tuple(own))}


def _of_adapters(model: Transformer, kind: str) -> set[str]:
    wanted = LoRALinear if kind == "lora" else AdapterLinear
    if not any(isinstance(module, wanted) for module in model.modules()):
        call = "add_lora(model)" if kind == "lora" else "add_adapters(model, size)"
        raise ConfigError(f"train: got {kind!r}, but the model has none; call {call} first")
    return set(names_beside(model))


def _numbers(train: str, text: str) -> set[int]:
    """The numbers of "0,3-5"."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        low = _whole(train, first)
        high = _whole(train, last) if dash else low
        if high < low:
            raise ConfigError(f"train: got {train!r}, expected the lower number first, as in layers:3-5")
        found |= set(range(low, high + 1))
    return found


def _whole(train: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text.strip()):
        raise ConfigError(f"train: got {train!r}, expected numbers, as in top:2 or layers:0,3-5")
    return int(text)


def _expected(model: Transformer) -> str:
    lengths = ", ".join(f"{name} 0 to {len(stack.layers) - 1}" for name, stack in _stacks(model).items())
    return f"expected {FORMS}; this model's layers: {lengths}"
