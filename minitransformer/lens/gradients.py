"""How one number of the output changes with what the model reads: gradients at the tokens' rows of the table.

An image's are those at its projected patches. Positions and token types stay what they are: only the row that stands
for a token is changed on its way.
"""

from collections.abc import Callable

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.lens.answers import Answer
from minitransformer.model import Transformer, capture, hooks
from minitransformer.model.points import points
from minitransformer.text import Batch

TOKENS_AT_ONCE = 1024  # in one pass: its memory grows with them

Rows = dict[str, Tensor]  # the point where they enter -> [N T D]
Score = Callable[[Rows], Tensor]  # a number for each of N readings: -> [N]


def check_gradients() -> None:
    """Raise an InputError where no gradient could be recorded."""
    if torch.is_inference_mode_enabled():
        raise InputError("this takes gradients, which torch.inference_mode() forbids; call it outside")


def rows_read(model: Transformer, batch: Batch) -> Rows:
    """The rows that the tokens are, as the model reads them: [1 T D] for each stack."""
    ends = ("hook_embed", "hook_patch_embed")
    with torch.no_grad(), capture(model, [name for name in points(model) if name.endswith(ends)]) as seen:
        model(**batch)
    return dict(seen)


def score_of(model: Transformer, batch: Batch, answer: Answer) -> Score:
    """The answer as a function of rows that are read in place of the text's own; all else is as in the batch of one."""

    def score(rows: Rows) -> Tensor:
        count = len(next(iter(rows.values())))
        repeated = {name: x.expand(count, *x.shape[1:]) for name, x in batch.items()}
        with hooks(model, [(name, lambda _, hook: rows[hook.name]) for name in rows]):
            return answer.of(model(**repeated))

    return score


def readings_at_once(rows: Rows) -> int:
    """How many readings are computed in one pass."""
    return max(1, TOKENS_AT_ONCE // max(x.shape[1] for x in rows.values()))


def gradients(score: Score, rows: Rows) -> Rows:
    """The gradient of each reading's number with respect to its rows: [N T D] each."""
    leaves = {name: x.detach().requires_grad_() for name, x in rows.items()}
    with torch.enable_grad():
        total = score(leaves).sum()  # the readings do not know of each other
    found = torch.autograd.grad(total, list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def gradient_x_input(score: Score, rows: Rows) -> Rows:
    """x · ∂F/∂x, summed over the width: [T] for each stack. Shrikumar et al. 2016; Li et al. 2016."""
    found = gradients(score, rows)
    return {name: (x * found[name])[0].double().sum(-1) for name, x in rows.items()}


def integrated_gradients(score: Score, rows: Rows, baseline: Rows, steps: int) -> Rows:
    """(x - x') · the mean of ∂F/∂x on the way from x' to x, summed over the width: [T] for each stack.

    x' is the baseline. The mean is taken by Gauss and Legendre's rule at `steps` places, several in one pass.
    Sundararajan, Taly, Yan 2017, "Axiomatic Attribution for Deep Networks", eq. 1, in place of the sum of eq. 3.
    """
    nodes, weights = (torch.from_numpy(each) / 2 for each in leggauss(steps))  # for -1 to 1, whose length is 2
    sums = {name: torch.zeros_like(x[0], dtype=torch.float64) for name, x in rows.items()}  # [T D]
    for some in torch.arange(steps).split(readings_at_once(rows)):
        share = {name: (nodes[some] + 0.5).to(x)[:, None, None] for name, x in rows.items()}  # [N 1 1]
        between = {name: torch.lerp(baseline[name], x, share[name]) for name, x in rows.items()}  # [N T D]
        for name, gradient in gradients(score, between).items():
            sums[name] += torch.einsum("n,ntd->td", weights[some].to(gradient.device), gradient.double())
    return {name: ((x - baseline[name])[0].double() * sums[name]).sum(-1) for name, x in rows.items()}
