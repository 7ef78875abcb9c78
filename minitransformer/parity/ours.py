"""Our side: a loaded model lent out and given back unchanged, run with either book, its numbers by place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from minitransformer.errors import InputError
from minitransformer.model import Transformer
from minitransformer.model.capture import capture, points, stacks
from minitransformer.model.stack import Block, Stack
from minitransformer.ops import BOOKS
from minitransformer.parity.values import Values, head_values


@contextmanager
def borrowed(module: nn.Module) -> Iterator[None]:
    """Within the `with`, do anything to a module and to its weights; then all is as before.

    Not a deep copy: whatever else holds the module has to see the changes, such as a function that someone has put in
    the place of its `forward`.
    """
    contents: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for part in module.modules():
        inner = [value for value in vars(part).values() if isinstance(value, dict)]  # its weights, parts and hooks
        contents += [(changed, dict(changed)) for changed in (vars(part), *inner)]
    weights = [(weight, weight.data, weight.grad) for weight in module.parameters()]
    for weight, _, _ in weights:
        weight.grad = None
    try:
        yield
    finally:
        for changed, content in contents:
            changed.clear()
            changed.update(content)
        for weight, data, grad in weights:
            weight.data, weight.grad = data, grad


def open_book(module: nn.Module, name: str) -> None:
    """Have every part compute with that book, but for a part that someone has given a book of its own."""
    for part in module.modules():
        if getattr(part, "book", None) in BOOKS.values():
            part.book = BOOKS[name]  # type: ignore[assignment]


def run_ours(model: Transformer, batch: Mapping[str, Tensor]) -> Values:
    """Our numbers, by place."""
    blocks = [name for name, point in points(model).items() if isinstance(point.module, Block) and point.reads == "out"]
    with capture(model, ["hook_full_embed", *blocks]) as seen:
        output = model(**takeable(model, batch))
    pooled = output.pooler_output
    return {
        "embedding": seen["hook_full_embed"],
        **{f"block {i}": seen[name] for i, name in enumerate(blocks)},
        **({"final norm": output.last_hidden_state} if the_stack(model)[1].config.final_norm else {}),
        **({"pooler": pooled} if pooled is not None else {}),
        **head_values(output),
    }


def the_stack(model: Transformer) -> tuple[str, Stack]:
    """The only stack, and its name in the model."""
    if len(stacks(model)) > 1:
        raise InputError("parity: got a model of two stacks, expected an encoder or a decoder alone")
    return ("encoder", model.encoder) if model.encoder is not None else ("decoder", stacks(model)["blocks"])


def takeable(model: Transformer, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that our model takes: without token types, where someone took their table away."""
    no_types = model.embed.types is None and model.embed.config.token_types == "learned"
    return {name: x for name, x in batch.items() if not (no_types and name == "token_type_ids")}
