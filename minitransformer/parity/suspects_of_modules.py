"""Suspects: a module of another kind, in another place, or not there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.model.heads import States
from minitransformer.modules import NORMS, LayerNorm, Norm, RMSNorm
from minitransformer.ops import BOOKS, Book
from minitransformer.parity.changes import Changes, Suspect, Weights, having, put_module, set_all, title
from minitransformer.parity.parts import Part
from minitransformer.parity.weights import put_right

EPS = (1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
TABLES = ("target_embed.tokens.weight", "embed.tokens.weight")  # the first that there is belongs to a tied head


def attribute(name: str, what: str, values: Sequence[object]) -> Suspect:
    """An attribute of one module in the part, or of all that have it, should have another of these values."""

    def suspect(part: Part, weights: Weights) -> Changes:
        holders = having(part, name)
        groups = [[path] for path in holders] + [list(holders)] * (len(holders) > 1)
        for group, value in product(groups, values):
            where = f" of {' and '.join(group)}" if all(group) else ""
            claim = f"{what}{where}: ours is {getattr(holders[group[0]], name)}, transformers' numbers fit {value}"
            yield claim, partial(set_all, [holders[path] for path in group], name, value)

    return suspect


def norm_kind(part: Part, weights: Weights) -> Changes:
    """A LayerNorm in the place of an RMSNorm, or the other way round: one of the part's norms, or all."""
    own = part.own(weights)
    norms = {path: norm for path, norm in part.module.named_modules() if isinstance(norm, LayerNorm | RMSNorm)}
    groups = [[path] for path in norms] + [list(norms)] * (len(norms) > 1)
    for group, kind in product(groups, NORMS.values()):
        there = norms[group[0]]
        if not isinstance(there, kind):
            right = {path: _norm(kind, path, own, norms[path].eps) for path in group if _key(path, "weight") in own}
            what = " and ".join(title(part, path) for path in group)
            claim = f"the kind of {what}: ours is {type(there).__name__}, transformers' numbers fit {kind.__name__}"
            yield claim, partial(_put_modules, part, right)


def swapped(part: Part, weights: Weights) -> Changes:
    """Two modules of the same kind and size, each in the other's place."""
    leaves = [(path, module) for path, module in part.module.named_modules() if module._parameters]
    for (a, first), (b, second) in combinations(leaves, 2):
        one, other = ({name: x.shape for name, x in module.named_parameters()} for module in (first, second))
        if one == other:
            yield f"{a} and {b} are swapped", partial(_swap, first, second, list(one))


def transposed(part: Part, weights: Weights) -> Changes:
    """A square matrix on its side."""
    for path, module in having(part, "weight").items():
        weight = module.weight
        if isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[0] == weight.shape[1]:
            yield f"{path}.weight is transposed", partial(set_all, [module], "weight", nn.Parameter(weight.T))


def missing(part: Part, weights: Weights) -> Changes:
    """A norm or a projection that is not there."""
    own = part.own(weights)
    modules = part.module.named_modules()
    there = {path for path, module in modules if module._parameters and not isinstance(module, nn.Identity)}
    absent = [
        path for path in (name.rpartition(".")[0] for name in own if name.endswith("weight")) if path not in there
    ]
    for path in absent:
        weight, bias = own[_key(path, "weight")], own.get(_key(path, "bias"))
        right: list[nn.Module] = []
        if weight.ndim == 1:
            right = [_norm(RMSNorm if bias is None else LayerNorm, path, own, eps) for eps in EPS]
        elif weight.ndim == 2:
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
            put_right(linear, {"weight": weight} if bias is None else {"weight": weight, "bias": bias})
            right = [linear]
        for module in right:
            yield f"{title(part, path)} is missing", partial(put_module, part, path, module)


def tied_table(part: Part, weights: Weights) -> Changes:
    """The token table that a tied head reads."""
    name = next((name for name in TABLES if name in weights), None)
    for states in part.args:
        if isinstance(states, States) and name is not None:
            right = states._replace(table=weights[name])
            yield f"{name}, to which the head is tied, is not transformers'", partial(setattr, part, "args", (right,))


def formula(part: Part, weights: Weights) -> Changes:
    """One formula of a book."""
    for field, (name, book) in product(fields(Book), BOOKS.items()):
        claim = f"the formula {field.name}: transformers' numbers fit that of the book {name}"
        yield claim, partial(_put_formula, part.module, field.name, getattr(book, field.name))


def _key(path: str, leaf: str) -> str:
    return f"{path}.{leaf}".lstrip(".")


def _norm(kind: type[Norm], path: str, own: Mapping[str, Tensor], eps: float) -> nn.Module:
    """A norm of that kind with transformers' weights; a bias that it has not is zeros."""
    weight = own[_key(path, "weight")]
    norm = kind(len(weight), eps)
    put_right(norm, {"weight": weight})
    if isinstance(norm, LayerNorm):
        put_right(norm, {"bias": own.get(_key(path, "bias"), torch.zeros_like(weight))})
    return norm


def _put_modules(part: Part, modules: Mapping[str, nn.Module]) -> None:
    for path, module in modules.items():
        put_module(part, path, module)


def _swap(first: nn.Module, second: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        one, other = getattr(first, name), getattr(second, name)
        setattr(first, name, other)
        setattr(second, name, one)


def _put_formula(module: nn.Module, name: str, function: Callable[..., Any]) -> None:
    for part in module.modules():
        if isinstance(getattr(part, "book", None), Book):
            part.book = replace(part.book, **{name: function})  # type: ignore[type-var]
