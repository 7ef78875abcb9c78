"""One head's attention as a small picture of characters."""

from collections.abc import Sequence

SHADES = " ░▒▓█"


def heatmap(weights: Sequence[Sequence[float]], tokens: Sequence[str]) -> str:
    """A row for each query, a column for each key; the darker, the more of the query's attention goes there.

    weights [T T], each row summing to 1.
    """
    width = max(len(token) for token in tokens)
    numbers = " ".join(f"{i:>2}" for i in range(len(tokens)))
    lines = [" " * (width + 4) + numbers]
    for i, (token, row) in enumerate(zip(tokens, weights, strict=True)):
        cells = " ".join(shade(weight) * 2 for weight in row)
        lines.append(f"{token:>{width}} {i:>2} {cells}")
    return "\n".join(lines)


def shade(weight: float) -> str:
    """Five steps from nothing to all: 0, up to 1/4, 1/2, 3/4, 1, with everything under 1/20 shown as nothing."""
    return SHADES[0] if weight < 0.05 else SHADES[min(4, 1 + int(weight * 4))]
