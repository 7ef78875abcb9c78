"""Tokens and numbers as they are printed: one line of plain text, whatever is in them."""

import math
from unicodedata import east_asian_width

BLOCKS = " ▏▎▍▌▋▊▉█"  # eighths


def visible(text: str) -> str:
    r"""The text on one line; what cannot be seen, or turns the writing round, as its escape: \\n, \\x1b, \\u202e."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def columns(line: str) -> int:
    """How many columns a line fills; a Chinese character fills two."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in line)


def fit(text: str, most: int) -> str:
    """The text on one line of at most so many columns; "…" stands for what was cut."""
    line = visible(text[: most + 1])
    if len(text) <= most and columns(line) <= most:
        return line
    while columns(line) >= most:
        line = line[:-1]
    return f"{line}…"


def bar(value: float, most: float, width: int = 20) -> str:
    """A bar of Unicode blocks, `width` characters for `most`; nothing for a value that is negative or no number."""
    if not (value > 0 and most > 0 and math.isfinite(value)):
        return ""
    eighths = round(min(1.0, value / most) * width * 8)
    return BLOCKS[8] * (eighths // 8) + BLOCKS[eighths % 8].strip()


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"
    return fit(str(value), 60)


def is_number(value: object) -> bool:
    """Whether the value is shown as a number, on the right of its column."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def aligned(rows: list[list[str]], right: list[bool]) -> str:
    """Cells as lines of equally wide columns; `right`: which columns stand to the right."""
    widths = [max(columns(row[place]) for row in rows) for place in range(len(right))]
    lines = []
    for row in rows:
        padded = [
            " " * (width - columns(text)) + text if to_right else text + " " * (width - columns(text))
            for text, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
