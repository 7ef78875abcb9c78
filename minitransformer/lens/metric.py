"""What an intervention is measured by: a metric makes one number of a model's output.

A metric is any function of an `Output` that gives a number, or a tensor of one, such as
`lambda output: output.logits[0, -1, 5]`. It is called with the output of one example at a time.
"""

from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.lens.answers import answer_of
from minitransformer.model import Output
from minitransformer.pretrained import Pretrained
from minitransformer.reading import Reading

Metric = Callable[[Output], "float | Tensor"]
Token = str | int | None  # a token or a label, by its text or its number


def value_of(metric: Metric, output: Output) -> Tensor:
    """The metric's number, a tensor []. An InputError where it gives none."""
    value = metric(output)
    if isinstance(value, Real):
        return torch.tensor(float(value), dtype=torch.float64)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return value.reshape(())
    got = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__}"
    raise InputError(
        f"metric: it returned {got}, expected a number, or a tensor of one; say which: "
        f"lambda output: output.logits[0, -1, 5]"
    )


def loss(output: Output) -> Tensor:
    """The head's loss, where the batch has labels."""
    if output.loss is None:
        raise InputError("metric: there is no loss without labels; give them, or another metric")
    return output.loss


def logit(
    model: Pretrained, reading: Reading, output: Output, answer: Token, foil: Token = None, position: int | None = None
) -> tuple[str, Metric]:
    """The logit of an answer or, with a foil, how much larger it is than the foil's; and its name.

    See `answer_of`: a token of a language model, a label of a classifier; without an answer that of this very output.
    """
    right = answer_of(model, reading, output, answer, position)
    if foil is None:
        return right.name, right.of
    wrong = answer_of(model, reading, output, foil, position)
    return f"{right.name} − {wrong.name}", lambda output: right.of(output) - wrong.of(output)


def distance(unchanged: Output, real: Tensor | None = None) -> Metric:
    """How far the last hidden states are from those of an unchanged run: the mean over tokens of ‖h - h'‖.

    For every model, also one without a head. real: bool [B T], which tokens are no padding.
    """
    assert unchanged.last_hidden_state is not None
    hidden = unchanged.last_hidden_state

    def metric(output: Output) -> Tensor:
        assert output.last_hidden_state is not None
        far = (output.last_hidden_state - hidden).norm(dim=-1)  # [B T]
        return far.mean() if real is None else far[real].mean()

    return metric
