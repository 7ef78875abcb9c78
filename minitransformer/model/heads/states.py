"""What heads have in common: what they read, and the checks of what their losses are computed from."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from minitransformer.errors import InputError

IGNORED = -100  # the label of what is not judged

Logits = dict[str, Tensor]
SumAndCount = tuple[Tensor, Tensor]
CrossEntropy = Callable[..., SumAndCount]  # in place of the book's own: with weights of classes, say


class States(NamedTuple):
    """What a head may read."""

    hidden: Tensor  # [B T D], the last stack's output
    pooled: Tensor | None  # [B D], the pooler's output
    table: Tensor | None  # [V D], the token embedding's weight, for tied heads; an image has none
    ids: Tensor | None  # [B T], the tokens that `hidden` stands for
    attention_mask: Tensor | None  # [B T], 1 for a token and 0 for padding
    choices: int | None = None  # texts for each question, where the inputs are [B choices T]: B above is B·choices
    read_at: Tensor | None = None  # [B choices], the token of each text that a choice is read from


def given(targets: Mapping[str, Tensor], name: str, *shapes: tuple[int, ...]) -> Tensor:
    """The target of that name, if it is there and has one of these shapes; else an InputError."""
    if name not in targets:
        raise InputError(f"{name}: this head needs it for its loss; got {', '.join(sorted(targets)) or 'nothing'}")
    found = targets[name]
    if not isinstance(found, Tensor) or tuple(found.shape) not in shapes:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise InputError(f"{name}: got {got}, expected a tensor of shape {wanted}")
    return found


def target(targets: Mapping[str, Tensor], name: str, shape: tuple[int, ...], classes: int | None = None) -> Tensor:
    """The target of that name as int64, checked: of this shape, each below `classes` or what is not judged."""
    labels = given(targets, name, tuple(shape))
    if labels.is_floating_point():
        raise InputError(f"{name}: got {labels.dtype}, expected whole numbers")
    if classes is not None and labels.device.type == "cpu":
        wrong = ((labels < 0) | (labels >= classes)) & (labels != IGNORED)
        if wrong.any():
            raise InputError(
                f"{name}: got {int(labels[wrong][0])}, expected 0 to {classes - 1}, or {IGNORED} for what is not judged"
            )
    return labels.to(torch.int64)
