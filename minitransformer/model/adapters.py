"""Putting adapters into a model, and taking them out. What trains is another question: nothing is frozen here."""

from collections.abc import Collection, Iterator, Mapping

from torch import Tensor, nn

from minitransformer.errors import ConfigError
from minitransformer.model.transformer import Transformer
from minitransformer.modules.adapters import AdapterLinear, LoRALinear, plain_linear

Adapted = LoRALinear | AdapterLinear
BEHIND = ("self_attn.o", "ffn.down")  # the last projections of a block's sub-layers, which bottlenecks stand behind


def add_lora(
    model: Transformer,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: Collection[str] = ("q", "v"),
    rslora: bool = False,
) -> None:
    """Put a LoRA beside each matrix of the blocks that has one of these names, of self- and cross-attention alike.

    `targets`: among q, k, v, o, up, gate, down. A matrix is drawn for each from torch's global generator. `rslora`:
    scaled by alpha/√rank in place of alpha/rank.
    """
    _check(rank >= 1, f"rank: got {rank}, expected 1 or more")
    _check(alpha > 0, f"alpha: got {alpha}, expected a number above 0")
    _check(0 <= dropout < 1, f"dropout: got {dropout}, expected from 0, below 1")
    linears = _linears_of_blocks(model)
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in linears))
    targets = [targets] if isinstance(targets, str) else list(targets)
    unknown = [target for target in targets if target not in known]
    _check(bool(targets) and not unknown, f"targets: got {', '.join(unknown) or 'none'}, expected {', '.join(known)}")
    chosen = {name: linear for name, linear in linears.items() if name.rpartition(".")[2] in targets}
    check_plain(chosen)
    for name, linear in chosen.items():
        layer = LoRALinear(linear, rank=rank, alpha=alpha, dropout=dropout, rank_stabilised=rslora)
        model.set_submodule(name, layer)


def add_adapters(model: Transformer, size: int = 64, activation: str = "gelu") -> None:
    """Put a bottleneck of this width behind each block's self-attention and feed-forward."""
    _check(size >= 1, f"size: got {size}, expected 1 or more")
    known = AdapterLinear.ACTIVATIONS
    _check(activation in known, f"activation: got {activation!r}, expected {' or '.join(known)}")
    chosen = linears_before_adapters(model)
    check_plain(chosen)
    for name, linear in chosen.items():
        model.set_submodule(name, AdapterLinear(linear, size=size, activation=activation))


def merge_lora(model: nn.Module) -> None:
    """Put each LoRA into the weight beside it."""
    for _, layer in lora_layers(model):
        layer.merge()


def unmerge_lora(model: nn.Module) -> None:
    """Undo `merge_lora`, to the last bit."""
    for _, layer in lora_layers(model):
        layer.unmerge()


def remove_adapters(model: nn.Module) -> None:
    """Make plain linear layers of all adapted ones, with the weights they have now: merged, if they are merged."""
    for name, layer in adapted_layers(model):
        model.set_submodule(name, plain_linear(layer))


def adapted_layers(model: nn.Module) -> list[tuple[str, Adapted]]:
    """The layers that have something beside them, by name."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Adapted)]


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Those that have a LoRA, by name."""
    return ((name, layer) for name, layer in adapted_layers(model) if isinstance(layer, LoRALinear))


def beside(model: nn.Module) -> dict[str, Tensor]:
    """The weights that adapters have brought, by name: no checkpoint of the model knows them."""
    return {f"{name}.{one}": layer.get_parameter(one) for name, layer in adapted_layers(model) for one in layer.BESIDE}


def names_beside(model: Transformer) -> list[str]:
    """The weights that are trained and kept with an adapter: it and the head, but not a language model's head.

    A classifier, and the pooler it reads, are new or belong to the task. A language model's head has been trained.
    """
    own = [name for name, _ in model.named_parameters()]
    head = [name for name in own if name.startswith(("head.", "pooler.")) and not name.startswith("head.lm.")]
    return list(dict.fromkeys([*beside(model), *head]))


def check_plain(linears: Mapping[str, nn.Linear]) -> None:
    """Raise a ConfigError if one of these already has an adapter."""
    for name, linear in linears.items():
        _check(not isinstance(linear, Adapted), f"{name} has an adapter already; remove_adapters(model) takes it out")


def linears_before_adapters(model: Transformer) -> dict[str, nn.Linear]:
    """The layers that bottleneck adapters stand behind, by name."""
    return {name: linear for name, linear in _linears_of_blocks(model).items() if name.endswith(BEHIND)}


def _linears_of_blocks(model: Transformer) -> dict[str, nn.Linear]:
    """The linear layers of all blocks by name, each once."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(("encoder.", "decoder.")) and ".adapter_" not in name
    }


def _check(right: bool, message: str) -> None:
    if not right:
        raise ConfigError(message)
