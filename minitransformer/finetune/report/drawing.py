"""The parts of a picture: axes with round numbers, lines, words; put together as SVG that any browser shows."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minitransformer.finetune.report.shown import xml

Points = Sequence[tuple[float, float]]  # y is nan where there is none

STYLE = """
.mt{font-size:12px;font-family:system-ui,sans-serif}
.mt path{fill:none!important;stroke-linecap:round;stroke-linejoin:round}
.mt .paper{fill:#fff} .mt text{fill:#1f2328} .mt .axis{stroke:#1f2328} .mt .grid{stroke:#d8dee4}
.mt .faint{fill:#656d76} .mt path.rate{stroke:#8c959f;stroke-dasharray:4 4} .mt .rate{fill:#656d76}
.mt path.raw{stroke:#0969da;opacity:.35} .mt .raw,.mt .loss{fill:#0969da} .mt path.loss{stroke:#0969da;stroke-width:2}
.mt path.dev{stroke:#bc4c00;stroke-width:2} .mt .dev{fill:#bc4c00}
.mt path.score{stroke:#1a7f37;stroke-width:2} .mt .score{fill:#1a7f37} .mt path.mark{stroke:#bc4c00;stroke-width:2}
.mt .cell{fill:#0969da} .mt .on{fill:#fff}
@media (prefers-color-scheme:dark){
.mt .paper{fill:#0d1117} .mt text{fill:#e6edf3} .mt .axis{stroke:#e6edf3} .mt .grid{stroke:#30363d}
.mt .faint,.mt .rate{fill:#9198a1} .mt path.raw,.mt path.loss{stroke:#4493f8} .mt .raw,.mt .loss{fill:#4493f8}
.mt path.dev,.mt path.mark{stroke:#f0883e} .mt .dev{fill:#f0883e}
.mt path.score{stroke:#3fb950} .mt .score{fill:#3fb950} .mt .cell{fill:#1f6feb} .mt .on{fill:#fff}
}
"""


@dataclass(frozen=True)
class Axis:
    """Numbers from `low` to `high`, laid out from one place of the picture to another."""

    low: float
    high: float
    begin: float
    end: float

    def place(self, value: float) -> float:
        """Where a number stands."""
        share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        return self.begin + share * (self.end - self.begin)

    def ticks(self, most: int = 6) -> list[float]:
        """The multiples of 1, 2 or 5 times a power of ten that are on the axis, about `most` of them."""
        rough = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
        return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def axis(values: Iterable[float], begin: float, end: float, *, margin: float = 0.0) -> Axis:
    """The axis that these numbers need, and a share of its length more at either end. nan counts nothing."""
    known = [value for value in values if not math.isnan(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    least = 1e-5 * max(abs(low), abs(high), 1e-5)  # all the same: float64 has to tell the ticks apart
    if high - low < least:
        low, high = low - max(least, abs(low) / 10), high + max(least, abs(high) / 10)
    more = (high - low) * margin
    return Axis(low - more, high + more, begin, end)


def number(value: object) -> float:
    """A number that can be drawn; nan for what is none, or has no end."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        return math.nan
    return float(value)


def line(points: Points, x: Axis, y: Axis, kind: str) -> str:
    """A line through these points, which is broken where there is none; a point by itself is a dot."""
    parts, pen_down = [], False
    for at, value in points:
        if math.isnan(value):
            pen_down = False
            continue
        place = f"{x.place(at):.1f} {y.place(value):.1f}"
        parts.append(f"L{place}" if pen_down else f"M{place}h0")
        pen_down = True
    return f'<path class="{kind}" d="{"".join(parts)}"/>' if parts else ""


def dots(points: Points, x: Axis, y: Axis, kind: str) -> str:
    """A dot at each of these points."""
    known = [(at, value) for at, value in points if not math.isnan(value)]
    return "".join(
        f'<circle class="{kind}" cx="{x.place(at):.1f}" cy="{y.place(value):.1f}" r="3"/>' for at, value in known
    )


def words(x: float, y: float, text: object, kind: str = "", *, anchor: str = "start", more: str = "") -> str:
    """A text whose start, middle or end stands at this place."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{xml(text)}</text>'


def stroke(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def thinned(points: Points, most: int = 400) -> Points:
    """Of many points the lowest and the highest of each stretch, in their order: spikes stay to be seen."""
    if len(points) <= 2 * most:
        return points
    kept: list[tuple[float, float]] = []
    for k in range(most):
        part = points[k * len(points) // most : (k + 1) * len(points) // most]
        known = [i for i, (_, value) in enumerate(part) if not math.isnan(value)] or [0]
        ends = {min(known, key=lambda i: part[i][1]), max(known, key=lambda i: part[i][1])}
        kept += [part[i] for i in sorted(ends)]
    return kept


def picture(width: float, height: float, title: object, parts: Iterable[str]) -> str:
    """The whole picture: readable on light and on dark, by what the reader's system prefers."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="mt" role="img" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}"><title>{xml(title)}</title><style>{STYLE}</style>'
        f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>\n'
        + "\n".join(filter(None, parts))
        + "</svg>\n"
    )
