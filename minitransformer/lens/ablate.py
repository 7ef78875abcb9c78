"""Ablation: how much worse a model gets when a part of it is muted."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from minitransformer.errors import InputError
from minitransformer.lens.examples import Example, examples
from minitransformer.lens.head_scores import HeadScores, group_of
from minitransformer.lens.interventions import Change, changed_values, real_tokens
from minitransformer.lens.metric import Metric, value_of
from minitransformer.model import Transformer, capture
from minitransformer.model.muting import MUTINGS, Muting
from minitransformer.model.points import Heads, heads_of
from minitransformer.pretrained import Pretrained
from minitransformer.tasks.inference import inference

Unit = Literal["head", "attention", "mlp"]


def ablate(
    model: Pretrained,
    data: Any,
    *,
    unit: Unit = "head",
    mode: Muting = "zero",
    metric: Metric | None = None,
    attention: str | None = None,
) -> HeadScores:
    """The change of the metric when each head is muted, alone: [L H]. Positive: the loss is higher without the head.

    data: a text, texts, (text, label) pairs or a batch, see `examples`; the scores are means over them. unit: what is
    muted, "head", or the whole "attention" or "mlp" of a layer. mode: "zero"; "mean": it gives all tokens the mean of
    what it gives the real tokens of all examples; "uniform": a head looks everywhere it may, equally. metric: a
    function of an `Output`, in place of the loss. Michel et al. 2019, section 3.
    """
    if unit not in get_args(Unit):
        raise InputError(f"unit: got {unit!r}, expected one of {', '.join(get_args(Unit))}")
    if mode not in (tuple(MUTINGS) if unit == "head" else ("zero", "mean")):
        raise InputError(f"mode: got {mode!r} for unit {unit!r}, expected zero, mean, or for heads uniform")
    heads = heads_of(model.transformer, attention)
    points = [muted_point(heads, layer, unit, mode) for layer in range(heads.layers)]
    name, given = examples(model, data, metric)
    with inference(model.transformer):
        before = torch.tensor(
            [float(value_of(each.metric, model(**each.batch))) for each in given], dtype=torch.float64
        )
        means = means_of(model.transformer, given, points) if mode == "mean" else [None] * heads.layers
        count = heads.stack.config.heads if unit == "head" else 1
        values = [
            muted_values(
                model.transformer, given, point, [partial(mute, point, part, mode, mean) for part in range(count)]
            )
            for point, mean in zip(points, means, strict=True)
        ]
    muted = {"head": "heads", "attention": "attention", "mlp": "feed-forward"}[unit]
    return HeadScores(
        scores=torch.stack([(after - before[:, None]).mean(0) for after in values]),  # [L H]
        name=f"{muted} muted ({mode}): change of the {name}",
        metric=name,
        unchanged=before.mean().item(),
        examples=len(given),
        unit=unit,
        group=group_of(model, attention),
        signed=True,
    )


def muted_values(model: Transformer, given: Sequence[Example], point: str, changes: Sequence[Change]) -> Tensor:
    """The metric of each example with each part of a layer muted: float64 [examples H]."""
    return torch.stack([changed_values(model, each.batch, each.metric, point, changes) for each in given])


def muted_point(heads: Heads, layer: int, unit: Unit, mode: Muting) -> str:
    """Where a part of that layer is muted: z [B T H E], scores [B H T S], or what is added to the stream, [B T D]."""
    if unit == "head":
        return heads.point(layer, "attn_scores" if mode == "uniform" else "z")
    return heads.block_point(layer, "attn_out" if unit == "attention" else "mlp_out")


def mute(point: str, part: int, mode: Muting, mean: Tensor | None, x: Tensor) -> Tensor:
    """The point's tensor with one part muted; mean: [H E] or [1 D], what takes its place."""
    x = x.clone()
    of_part = x[:, part] if mode == "uniform" else parts_of(point, x)[:, :, part]  # a view: [B T S], [B T E] or [B T D]
    of_part.copy_(MUTINGS[mode](of_part) if mean is None else mean[part].expand_as(of_part))
    return x


def means_of(model: Transformer, given: Sequence[Example], points: Sequence[str]) -> list[Tensor]:
    """The mean of each point over the real tokens of all examples: [H E] each, or [1 D]."""
    totals: list[Tensor] = [torch.zeros(()) for _ in points]
    tokens = 0
    for each in given:
        with capture(model, points) as seen:
            model(**each.batch)
        real = real_tokens(each.batch, seen[points[0]], of_decoder=points[0].startswith("decoder."))  # [B T]
        tokens += int(real.sum())
        totals = [
            total.to(real.device) + parts_of(point, seen[point])[real].sum(0)
            for total, point in zip(totals, points, strict=True)
        ]
    return [total / tokens for total in totals]


def parts_of(point: str, x: Tensor) -> Tensor:
    """A point with a place for its heads: [B T H E] as it is, [B T D] as [B T 1 D]."""
    return x if point.endswith("hook_z") else x[:, :, None]
