"""Figures for papers, on matplotlib: heat maps with tokens at their edges, bars, lines.

They are made as `matplotlib.figure.Figure`, never through pyplot: no window, no state. A text is only text: neither a
dollar sign nor a backslash in a token is read as mathematics, and a character that no installed font can draw is
written as its code.
"""

from __future__ import annotations

import functools
import importlib
import io
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minitransformer.errors import DependencyError
from minitransformer.lens.words import fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

UNSIGNED, SIGNED = "Blues", "RdBu"  # colours
LONGEST = 16  # columns of a label
MOST_LABELS = 64  # along an edge; of more, every second, third, …
VECTOR = {"svg.fonttype": "none", "pdf.fonttype": 42}  # letters, not their outlines


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, which a notebook shows, with or without pyplot."""
    figure: Figure = _matplotlib("figure").Figure(figsize=(width, height), layout="constrained")
    figure._repr_svg_ = lambda: drawn(figure, "svg").decode()  # type: ignore[attr-defined]
    return figure


def heatmap(
    values: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    row_name: str = "",
    column_name: str = "",
    signed: bool = False,
    numbers: bool = False,
) -> Figure:
    """A matrix in colours, a label at each row and column. values [R C]; nan is left white.

    signed: colours that diverge from 0; otherwise they start at 0. numbers: write each value on its cell.
    """
    width, height = (min(14.0, max(2.0, 0.26 * size)) for size in reversed(values.shape))
    figure = new_figure(width + 2.2, height + 1.6)
    axes = figure.subplots()
    image = _cells(axes, values, _range(values, signed), signed)
    _edge(axes, "x", columns, turned=True)
    _edge(axes, "y", rows)
    axes.set(xlabel=column_name, ylabel=row_name)
    if numbers:
        _numbers(axes, values, image.norm, signed)
    figure.colorbar(image, ax=axes, shrink=0.8)
    _title(figure, title)
    return figure


def heatmaps(
    values: Tensor, rows: Sequence[str], columns: Sequence[str], names: Sequence[str], *, title: str = ""
) -> Figure:
    """Small heat maps side by side, [N R C], a name above each; one scale of colours, from 0, for all."""
    across = min(4, math.ceil(math.sqrt(len(values))))
    down = math.ceil(len(values) / across)
    labelled = max(values.shape[1:]) <= 32
    side = max(1.6, 0.16 * max(values.shape[1:])) if labelled else 2.0
    margin = 1.0 if labelled else 0.2
    figure = new_figure(min(30.0, across * side + margin + 0.8), min(30.0, down * (side + 0.3) + margin + 0.3))
    grid = figure.subplots(down, across, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(values):
            axes.set_axis_off()
            continue
        image = _cells(axes, values[place], _range(values, signed=False), signed=False)
        name = drawable(names[place])
        axes.set_title(name, fontsize=8, **plain_text(name))
        left, lowest = place % across == 0, place + across >= len(values)
        _edge(axes, "x", columns if labelled and lowest else (), turned=True, size=6)
        _edge(axes, "y", rows if labelled and left else (), size=6)
    figure.colorbar(image, ax=grid, shrink=0.5)
    _title(figure, title)
    return figure


def bars(
    names: Sequence[str],
    values: Sequence[float],
    *,
    others: Sequence[float] = (),
    names_of_both: tuple[str, str] = ("", ""),
    title: str = "",
    value_name: str = "",
) -> Figure:
    """A bar for each name, the first on top; with `others`, a second below each, in another colour."""
    series = [values, others] if len(others) else [values]
    figure = new_figure(6.4, min(24.0, 1.2 + 0.26 * len(names)))
    axes = figure.subplots()
    height = 0.8 / len(series)
    for place, (numbers, label, colour) in enumerate(zip(series, names_of_both, ("#2f6fb0", "#e08a2e"), strict=False)):
        at = [row + (place - (len(series) - 1) / 2) * height for row in range(len(names))]
        axes.barh(at, [0.0 if math.isnan(x) else x for x in numbers], height, color=colour, label=drawable(label))
    axes.invert_yaxis()
    axes.set_xlabel(value_name)
    _edge(axes, "y", names, most=2 * LONGEST)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8)
    _title(figure, title)
    return figure


def drawn(figure: Figure, kind: str) -> bytes:
    """The figure as the content of a file: "svg", "pdf" or "png". Texts in the first two can be searched and copied."""
    file = io.BytesIO()
    undated: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    with _matplotlib().rc_context({**VECTOR, "svg.hashsalt": "minitransformer"}):
        figure.savefig(file, format=kind, dpi=150, metadata=undated[kind])  # the same figure, the same bytes
    return file.getvalue()


def _matplotlib(part: str = "") -> Any:
    """The package, or a part of it: without pyplot, and only when something is drawn."""
    try:
        return importlib.import_module(f"matplotlib.{part}" if part else "matplotlib")
    except ImportError:
        raise DependencyError("figures need matplotlib; pip install 'minitransformer[plot]'") from None


def _cells(axes: Axes, values: Tensor, limits: tuple[float, float], signed: bool) -> Any:
    numbers = values.detach().to("cpu", torch.float32).numpy()
    return axes.imshow(
        numbers,
        cmap=SIGNED if signed else UNSIGNED,
        vmin=limits[0],
        vmax=limits[1],
        aspect="auto",
        interpolation="none",
    )


def _range(values: Tensor, signed: bool) -> tuple[float, float]:
    """From which value to which the colours go."""
    finite = values[values.isfinite()]
    most = float(finite.abs().max()) if finite.numel() else 1.0
    most = most or 1.0
    return (-most, most) if signed else (min(0.0, float(finite.min()) if finite.numel() else 0.0), most)


def _numbers(axes: Axes, values: Tensor, norm: Normalize, signed: bool) -> None:
    """Each value on its cell, white where that is dark."""
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            if math.isfinite(value):
                share = float(norm(value))
                dark = abs(share - 0.5) > 0.35 if signed else share > 0.55
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color="w" if dark else "k")


def _edge(
    axes: Axes, which: str, labels: Sequence[str], *, turned: bool = False, size: int = 8, most: int = LONGEST
) -> None:
    """The labels along one edge; of many, every second, third, …"""
    step = math.ceil(len(labels) / MOST_LABELS) or 1
    shown = [drawable(label, most) for label in labels[::step]]
    ticks = axes.set_xticks if which == "x" else axes.set_yticks
    ticks(range(0, len(labels), step), shown, fontsize=size, rotation=90 if turned else 0, **plain_text(*shown))


def _title(figure: Figure, title: str) -> None:
    """The title, on as many lines as the figure is narrow."""
    if title:
        across = max(20, int(figure.get_figwidth() * 9.5))  # letters
        text = "\n".join(textwrap.wrap(drawable(title, 4 * across), across))
        figure.suptitle(text, fontsize=10, **plain_text(text.replace("\n", "")))


def plain_text(*texts: str) -> dict[str, Any]:
    """Options of a text that make it no mathematics, in fonts that have all its characters."""
    families = ["DejaVu Sans", *(family for family in map(_family, sorted(set("".join(texts)))) if family)]
    return {"parse_math": False, "usetex": False, "fontfamily": list(dict.fromkeys(families))}


def drawable(text: str, most: int = LONGEST) -> str:
    """The text on one line of at most so many columns, each character one that some installed font can draw."""
    return "".join(char if _family(char) else f"\\u{ord(char):04x}" for char in fit(text, most))


@functools.lru_cache(maxsize=4096)
def _family(char: str) -> str | None:
    """The first font family that can draw the character; DejaVu Sans, which comes with matplotlib, before all."""
    manager = _matplotlib("font_manager")
    entries = [entry for entry in manager.fontManager.ttflist if entry.style == "normal"]
    for entry in sorted(entries, key=lambda entry: (entry.name != "DejaVu Sans", entry.name)):
        if entry.name.startswith(("Last Resort", "cm", "STIX")):  # boxes for all; fonts of formulas
            continue
        try:
            if manager.get_font(entry.fname).get_char_index(ord(char)):
                return str(entry.name)
        except (OSError, RuntimeError):  # a font that went, or one of pictures
            continue
    return None
