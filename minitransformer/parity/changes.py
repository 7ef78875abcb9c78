"""What a suspect is, and what suspects do to a part."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from minitransformer.parity.parts import Part

Weights = Mapping[str, Tensor]  # all of transformers' weights, under our names
Changes = Iterator[tuple[str, Callable[[], object]]]  # a claim, and what puts the part right if the claim is true
Suspect = Callable[[Part, Weights], Changes]


def having(part: Part, name: str) -> dict[str, Any]:
    """The modules in the part that have such an attribute, by path."""
    return {path: module for path, module in part.module.named_modules() if hasattr(module, name)}


def children(part: Part, name: str) -> list[Any]:
    """The part's own module of that name, if it has one."""
    return [module for path, module in part.module.named_children() if path == name]


def set_all(modules: Iterable[nn.Module], name: str, value: object) -> None:
    """Set one attribute of several modules."""
    for module in modules:
        setattr(module, name, value)


def put_module(part: Part, path: str, module: nn.Module) -> None:
    """Put a module into the part; at the path "" it becomes the part."""
    parent, _, name = path.rpartition(".")
    if path:
        setattr(part.module.get_submodule(parent), name, module)
    else:
        part.module = module


def title(part: Part, path: str) -> str:
    """What to call a module of the part."""
    return path or part.path.rpartition(".")[2]
