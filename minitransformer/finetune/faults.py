"""What can go wrong in a step: no memory left, and numbers that are none."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from minitransformer.errors import MiniTransformerError, NotFiniteError
from minitransformer.model import Transformer, capture
from minitransformer.tasks.task import Example, Task


def out_of_memory(error: RuntimeError) -> bool:
    """Whether there was no memory left, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def memory_for_optimizer(step: int) -> Iterator[None]:
    """Inside, at a step (from 0), the optimizer finds memory for its moments, or a MiniTransformerError says so."""
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise MiniTransformerError(
            f"step {step + 1}: out of memory for what the optimizer keeps; try optimizer='adafactor', train='lora', "
            f"shard with several processes, or a smaller model"
        ) from None


def not_finite(
    model: Transformer, task: Task, examples: Sequence[Example], step: int, steps: int, loss: float
) -> NotFiniteError:
    """The error that names the step (from 0), its rows, and the first tensor that is not finite."""
    rows = sorted({example.row for example in examples})
    error = NotFiniteError(
        f"step {step + 1} of {steps}: the loss is {loss}; the first tensor with a number that is not finite is "
        f"{first_bad_tensor(model, task, examples)}; rows {', '.join(map(str, rows[:40]))}"
        f"{' ...' if len(rows) > 40 else ''}. Try a lower learning rate, and look at these rows"
    )
    error.rows = rows
    return error


def first_bad_tensor(model: Transformer, task: Task, examples: Sequence[Example]) -> str:
    """The first weight, then state between blocks, then gradient that is not finite: its name."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            return name
    batch = {name: x.to(weight.device) for name, x in task.collate(examples).items()}
    for name, x in batch.items():
        if not x.isfinite().all():
            return name
    with torch.no_grad(), capture(model, ["*.hook_resid_pre", "*.hook_resid_post"]) as seen:
        task.loss(model, batch)
    for name, state in seen.items():
        if not state.isfinite().all():
            return name
    for name, weight in model.named_parameters():
        if weight.grad is not None and not weight.grad.isfinite().all():
            return f"the gradient of {name}"
    return "the loss itself"
