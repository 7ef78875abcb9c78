"""Pictures of a run: how the loss fell, which learning rate suits, what was taken for what. Each is a text, in SVG."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from minitransformer.finetune.report.drawing import (
    Axis,
    Points,
    axis,
    dots,
    line,
    number,
    picture,
    stroke,
    thinned,
    words,
)
from minitransformer.finetune.report.shown import shorten, width, xml

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 64, 656, 56, 352
MOST_LABELS = 50


def loss_curve(
    steps: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], metric: str | None = None
) -> str:
    """The training loss of each step, a smoothed line of it, the learning rate, and what the evaluations gave.

    `steps`: mappings with step, loss, learning_rate. `evaluations`: with step, and loss or the score `metric`, which
    has the axis on the right. What is missing, nan or infinite leaves a gap. Many steps are thinned to their extremes.
    """
    raw = series(steps, "loss")
    rates, dev, scores = series(steps, "learning_rate"), series(evaluations, "loss"), series(evaluations, metric)
    if metric == "loss":
        scores = []  # it is there already
    x = axis([at for points in (raw, dev, scores) for at, _ in points], LEFT, RIGHT)
    y = axis([value for _, value in (*raw, *dev)], BOTTOM, TOP, margin=0.04)
    right = axis([value for _, value in scores], BOTTOM, TOP, margin=0.08)
    rate = axis([0.0, *(value for _, value in rates)], BOTTOM, TOP)
    lines = [
        ("raw", "training loss", raw, y),
        ("loss", "smoothed", smoothed(raw), y),
        ("dev", "dev loss", dev, y),
        ("score", shorten(metric, 24), scores, right),
        ("rate", f"learning rate, up to {highest(rates):.3g}", rates, rate),
    ]
    drawn = [entry for entry in lines if not math.isnan(highest(entry[2]))]
    parts = [*frame(x, y, "step", "loss"), *legend([(kind, name) for kind, name, _, _ in drawn])]
    if not math.isnan(highest(scores)):
        parts += [words(RIGHT + 8, right.place(tick) + 4, f"{tick:.6g}", "score") for tick in right.ticks()]
    for kind, _, points, scale in reversed(drawn):
        parts.append(line(thinned(points), x, scale, kind))
        if kind in ("dev", "score"):
            parts.append(dots(thinned(points), x, scale, kind))
    return picture(WIDTH, HEIGHT, "Training: loss over steps", parts)


def rate_curve(rates: Sequence[float], losses: Sequence[float], suggested: float | None = None) -> str:
    """The loss at each learning rate that was tried, on a logarithmic axis, and the rate that is suggested."""
    tried = [number(rate) for rate in rates]
    points = [(math.log10(rate), number(loss)) for rate, loss in zip(tried, losses, strict=True) if rate > 0]
    x = axis([at for at, _ in points], LEFT, RIGHT)
    y = axis([loss for _, loss in points], BOTTOM, TOP, margin=0.04)
    parts = [*frame(x, y, "learning rate", "loss", log=True), line(thinned(points), x, y, "loss")]
    if suggested is not None and number(suggested) > 0:
        place = x.place(math.log10(suggested))
        parts += [stroke(place, TOP, place, BOTTOM, "mark")]
        parts += [words(place, TOP - 8, f"suggested: {suggested:.1e}", "dev", anchor="middle")]
    return picture(WIDTH, HEIGHT, "Loss over learning rates", parts)


def confusion_matrix_svg(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """How often each label (a row) was taken for each label (a column); the darker, the more of the row.

    Of more than 50 labels, the 50 that most rows have.
    """
    common = sorted(range(len(labels)), key=lambda i: -sum(matrix[i]))[:MOST_LABELS]
    shown = sorted(common)
    names = [shorten(labels[i], 20) for i in shown]
    cell, font = (36, 12) if len(shown) <= 20 else (24, 9)
    left = 24 + 7.5 * max([width(name) for name in names], default=0)
    top, side = left + 24, cell * len(shown)
    which = "" if len(shown) == len(labels) else f" (the {len(shown)} most frequent of {len(labels)})"
    parts = [words(8, 20, f"rows: right, columns: predicted{which}", "faint")]
    parts.append(square(left, top, side, 0.05))
    for k, name in enumerate(names):
        middle = (k + 0.5) * cell + 4
        parts.append(words(left - 8, top + middle, name, anchor="end"))
        turned = f' transform="rotate(-90 {left + middle:.1f} {top - 8:.1f})"'
        parts.append(words(left + middle, top - 8, name, more=turned))
    for r, i in enumerate(shown):
        for c, j in enumerate(shown):
            if matrix[i][j]:
                share = matrix[i][j] / sum(matrix[i])
                parts.append(matrix_cell(left + c * cell, top + r * cell, cell, font, matrix[i][j], share))
    return picture(max(left + side + 16, 420), top + side + 16, "Confusion matrix", parts)


def matrix_cell(x: float, y: float, side: float, font: int, count: int, share: float) -> str:
    """One square of a confusion matrix, with its count."""
    told = str(count) if count < 10000 else f"{count / 1000:.0f}k" if count < 1e6 else f"{count / 1e6:.0f}M"
    kind, size = ("on" if share > 0.5 else ""), f' style="font-size:{font}px"'
    count_at = words(x + side / 2, y + side / 2 + font / 3, told, kind, anchor="middle", more=size)
    return square(x + 0.5, y + 0.5, side - 1, 0.05 + 0.95 * share) + count_at


def square(x: float, y: float, side: float, dark: float) -> str:
    """A square, the darker the nearer `dark` is to 1."""
    return f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{side}" height="{side}" fill-opacity="{dark:.2f}"/>'


def series(rows: Sequence[Mapping[str, Any]], name: str | None) -> Points:
    """The points (step, value) of one of the numbers in these rows; nan where a row does not have it."""
    return [
        (number(row["step"]), number(row.get(name or ""))) for row in rows if not math.isnan(number(row.get("step")))
    ]


def smoothed(points: Points) -> Points:
    """The moving average of the values, the last 1/25 of all counting most. Starts at the first value, not at 0."""
    keep = 1 - 1 / (1 + len(points) / 25)
    result, total, weight = [], 0.0, 0.0
    for at, value in points:
        if not math.isnan(value):
            total, weight = keep * total + value, keep * weight + 1
        result.append((at, value if math.isnan(value) else total / weight))
    return result


def highest(points: Points) -> float:
    """The highest value; nan where there is none."""
    return max((value for _, value in points if not math.isnan(value)), default=math.nan)


def frame(x: Axis, y: Axis, below: str, beside: str, *, log: bool = False) -> list[str]:
    """The axes with their numbers and names; `log`: the numbers of x are powers of ten."""
    parts = []
    for tick in y.ticks():
        parts.append(stroke(LEFT, y.place(tick), RIGHT, y.place(tick), "grid"))
        parts.append(words(LEFT - 8, y.place(tick) + 4, f"{tick:.6g}", anchor="end"))
    for tick in x.ticks(8):
        whole = tick if log else round(tick)
        if whole == tick:
            told = f"{whole:,}" if not log else f"{10**tick:.0e}" if tick == round(tick) else f"{10**tick:.1e}"
            parts.append(stroke(x.place(tick), BOTTOM, x.place(tick), BOTTOM + 4, "axis"))
            parts.append(words(x.place(tick), BOTTOM + 18, told, anchor="middle"))
    parts += [stroke(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"), stroke(LEFT, TOP, LEFT, BOTTOM, "axis")]
    parts.append(words((LEFT + RIGHT) / 2, BOTTOM + 38, below, "faint", anchor="middle"))
    return [*parts, words(LEFT - 8, TOP - 14, beside, "faint", anchor="end")]


def legend(entries: Sequence[tuple[str, str]]) -> list[str]:
    """The lines' names, in their colours, above the picture."""
    spans = "  ".join(f'<tspan class="{kind}">― {xml(name)}</tspan>' for kind, name in entries)
    return [f'<text x="{LEFT}" y="24" xml:space="preserve">{spans}</text>']
