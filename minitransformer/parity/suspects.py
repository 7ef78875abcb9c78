"""What may be wrong with a part: each suspect is a claim, and the change that puts the part right if the claim is true.

A suspect is a function from a part, and all of transformers' weights under our names, to such pairs. To add one, write
it and put it into SUSPECTS. It need not clean up: after each change the part is given back as it was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import combinations, product
from typing import Any

from torch import Tensor, nn

from minitransformer.config import ACTIVATIONS
from minitransformer.model.heads import States
from minitransformer.modules import LayerNorm
from minitransformer.modules.masks import self_attention_mask
from minitransformer.ops import BOOKS, Book
from minitransformer.parity.parts import Part
from minitransformer.parity.weights import put_right

Weights = Mapping[str, Tensor]
Changes = Iterator[tuple[str, Callable[[], object]]]
Suspect = Callable[[Part, Weights], Changes]

EPS = (1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
TABLE = "embed.tokens.weight"


def attribute(name: str, what: str, values: Sequence[object]) -> Suspect:
    """An attribute of one module in the part, or of all that have it, should have another of these values."""

    def suspect(part: Part, weights: Weights) -> Changes:
        holders = _having(part, name)
        groups = [[path] for path in holders] + [list(holders)] * (len(holders) > 1)
        for group, value in product(groups, values):
            where = f" of {' and '.join(group)}" if all(group) else ""
            claim = f"{what}{where}: ours is {getattr(holders[group[0]], name)}, transformers' numbers fit {value}"
            yield claim, partial(_set, [holders[path] for path in group], name, value)

    return suspect


def score_scale(part: Part, weights: Weights) -> Changes:
    """The factor on the attention scores."""
    for path, module in _having(part, "heads").items():
        d_model, d_head = module.q.out_features, module.q.out_features // module.heads
        for says, scale in (("1/√E", d_head**-0.5), ("1", 1.0), ("1/√D", d_model**-0.5)):
            claim = f"the scale of {path}'s scores: ours is {module.scale:.4g}, transformers' numbers fit {says}"
            yield claim, partial(_set, [module], "scale", scale)


def heads(part: Part, weights: Weights) -> Changes:
    """The number of heads."""
    for path, module in _having(part, "heads").items():
        d_model = module.q.out_features
        for count in (n for n in range(1, d_model + 1) if d_model % n == 0):
            claim = f"the heads of {path}: ours has {module.heads}, transformers' numbers fit {count}"
            yield claim, partial(vars(module).update, heads=count, scale=(d_model / count) ** -0.5)


def swapped(part: Part, weights: Weights) -> Changes:
    """Two modules of the same kind and size, each in the other's place."""
    leaves = [(path, module) for path, module in part.module.named_modules() if module._parameters]
    for (a, first), (b, second) in combinations(leaves, 2):
        one, other = ({name: x.shape for name, x in module.named_parameters()} for module in (first, second))
        if one == other:
            yield f"{a} and {b} are swapped", partial(_swap, first, second, list(one))


def transposed(part: Part, weights: Weights) -> Changes:
    """A square matrix on its side."""
    for path, module in _having(part, "weight").items():
        weight = module.weight
        if isinstance(weight, Tensor) and weight.ndim == 2 and weight.shape[0] == weight.shape[1]:
            yield f"{path}.weight is transposed", partial(_set, [module], "weight", nn.Parameter(weight.T))


def mask(part: Part, weights: Weights) -> Changes:
    """Which keys a query may attend to."""
    for causal, padding in product((True, False), (part.real, None)) if "mask" in part.kwargs else ():
        right = self_attention_mask(padding, causal=causal, queries=part.real.shape[1], past=0, device=part.real.device)
        kind = "causal" if causal else "bidirectional"
        says = f"{kind} attention {'with' if padding is None else 'without'} padding"
        yield f"the mask: transformers' numbers fit {says}", partial(part.kwargs.update, mask=right)


def shifted_positions(part: Part, weights: Weights) -> Changes:
    """Positions counted from somewhere else."""
    for module in _children(part, "positions"):
        for shift, words in ((1, "one"), (-1, "one"), (2, "two"), (-2, "two")):
            claim = f"positions are off by {words}: transformers' are ours {shift:+d}"
            yield claim, partial(module.register_forward_pre_hook, partial(_shift, shift))


def dropped(part: Part, weights: Weights) -> Changes:
    """Token types or positions that are not added to the tokens."""
    for tokens in _children(part, "tokens"):
        types = part.batch.get("token_type_ids")  # [B T]
        if types is not None:
            added = weights.get("embed.types.weight", weights[TABLE])[types]  # [B T D]
            yield "token types are dropped", partial(_add, part, tokens, added)
            first = weights.get("embed.types.weight", weights[TABLE])[0]
            yield "token types are dropped: each is taken as 0", partial(_add, part, tokens, added - first)
        if "embed.positions.weight" in weights:
            added = weights["embed.positions.weight"][: part.real.shape[1]]  # [T D]
            yield "positions are dropped", partial(_add, part, tokens, added)


def missing_norm(part: Part, weights: Weights) -> Changes:
    """A norm that is not there."""
    own = part.own(weights)
    norms = [name.rpartition(".")[0] for name, x in own.items() if name.endswith("weight") and x.ndim == 1]
    for path, eps in product(norms, EPS):
        there = getattr(part.module, path, None) if path else part.module
        if not isinstance(there, LayerNorm):
            right = {name: own[f"{path}.{name}".lstrip(".")] for name in ("weight", "bias")}
            norm = LayerNorm(len(right["bias"]), eps)
            put_right(norm, right)
            change = partial(setattr, part.module, path, norm) if path else partial(setattr, part, "module", norm)
            yield f"{path or 'the norm'} is missing", change


def tied_table(part: Part, weights: Weights) -> Changes:
    """The token table that a tied head reads."""
    for states in part.args:
        if isinstance(states, States):
            right = states._replace(table=weights[TABLE])
            yield f"{TABLE}, to which the head is tied, is not transformers'", partial(setattr, part, "args", (right,))


def formula(part: Part, weights: Weights) -> Changes:
    """One formula of a book."""
    for field, (title, book) in product(fields(Book), BOOKS.items()):
        claim = f"the formula {field.name}: transformers' numbers fit that of the book {title}"
        yield claim, partial(_put_formula, part.module, field.name, getattr(book, field.name))


SUSPECTS: tuple[Suspect, ...] = (
    attribute("activation", "the activation", ACTIVATIONS),
    attribute("eps", "eps", EPS),
    attribute("order", "the norm order", ("pre", "post")),
    score_scale,
    heads,
    swapped,
    transposed,
    mask,
    shifted_positions,
    dropped,
    missing_norm,
    tied_table,
    formula,
)


def _having(part: Part, name: str) -> dict[str, Any]:
    """The modules in the part that have such an attribute, by path."""
    return {path: module for path, module in part.module.named_modules() if hasattr(module, name)}


def _children(part: Part, name: str) -> list[nn.Module]:
    """The part's own module of that name, if it has one."""
    return [module for path, module in part.module.named_children() if path == name]


def _set(modules: Sequence[nn.Module], name: str, value: object) -> None:
    for module in modules:
        setattr(module, name, value)


def _swap(first: nn.Module, second: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        one, other = getattr(first, name), getattr(second, name)
        setattr(first, name, other)
        setattr(second, name, one)


def _shift(shift: int, _: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] + shift,)


def _add(part: Part, tokens: nn.Module, added: Tensor) -> None:
    scale: Any = part.module.config.scale  # type: ignore[union-attr]
    tokens.register_forward_hook(lambda _, args, output: output + added / scale)


def _put_formula(module: nn.Module, name: str, function: Callable[..., Any]) -> None:
    for part in module.modules():
        if isinstance(getattr(part, "book", None), Book):
            part.book = replace(part.book, **{name: function})  # type: ignore[type-var]
