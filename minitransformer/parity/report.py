"""What a comparison found: one row for each place, the verdict, the likely cause. Plain data, and a table to print."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["equal", "diverges", "inherited"]

THROUGH = 1e-5  # tolerated from the input up to a place, in float32
FLOORS = 10  # … or this many times the noise floor, where that is more
ALONE = 1e-9  # tolerated of one part alone, in float64, where rounding is 1e-15 and a wrong formula shows
ROUNDED = 2**-24  # … or this, the rounding of float32, of a part to which transformers adds sines that it has rounded

RULE = f"""\
A difference is the largest of all tokens, each divided by the token's largest value (by 1 where that is smaller).
Tolerated are {THROUGH:.0e} from the input up to a place in float32 (or {FLOORS} × the noise floor, transformers' eager
against its sdpa, where that is more), and {ALONE:.0e} of a part alone, fed with transformers' numbers in float64. What
transformers rounds to float32 even there is left unrounded, but for sinusoids: an embedding with them may differ by
{ROUNDED:.0e}."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One place of the model: how far our numbers are from transformers'."""

    place: str
    largest: float  # transformers' largest value here
    fused: float  # the difference from the input up to here, in float32, with the fused book
    by_hand: float  # the same with the formulas by hand
    floor: float  # transformers' eager attention against its sdpa
    tolerance: float  # what `fused` and `by_hand` may be
    alone: float  # the difference that this part alone makes, in float64, with the worse book
    alone_tolerance: float  # what `alone` may be
    verdict: Verdict  # "inherited": the difference came from an earlier part
    double: float | None = None  # as `fused`, in float64
    error_ours: float | None = None  # our float32 against transformers' float64
    error_theirs: float | None = None  # transformers' float32 against its float64


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The outcome of `parity`."""

    model: str
    reference: str  # the folder that transformers read
    against: str  # the class and version of transformers
    batch: str
    rows: tuple[Row, ...]
    cause: str | None = None  # of the first divergence
    notes: tuple[str, ...] = ()

    @property
    def first_divergence(self) -> str | None:
        """The first place that computes other numbers; None if all are equal."""
        return next((row.place for row in self.rows if row.verdict == "diverges"), None)

    @property
    def equal(self) -> bool:
        """Whether ours are transformers' numbers at every place."""
        return self.first_divergence is None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a program; a number that is NaN or infinite is None."""
        outcome = {"equal": self.equal, "first_divergence": self.first_divergence, "rule": RULE}
        return _finite({**outcome, **asdict(self)})

    def __str__(self) -> str:
        outcome = [f"Equal to {self.against}."]
        if not self.equal:
            outcome = [f"First divergence: {self.first_divergence}", f"Likely cause: {self.cause}"]
        notes = [f"Note: {note}" for note in self.notes]
        head = [f"{self.model} against {self.against}, {self.batch}", ""]
        return "\n".join([*head, *_table(self.rows), "", RULE, *notes, "", *outcome])


def _table(rows: Sequence[Row]) -> list[str]:
    """The rows as lines of aligned columns."""
    names = ["place", "largest value", "fused", "by hand", "noise floor", "tolerance", "alone"]
    fields = ["fused", "by_hand", "floor", "tolerance", "alone"]
    if any(row.double is not None for row in rows):
        names += ["in float64", "our error", "their error"]
        fields += ["double", "error_ours", "error_theirs"]
    cells = [[*names, "verdict"]]
    for row in rows:
        numbers = [f"{getattr(row, field):.1e}" for field in fields]
        cells.append([row.place, f"{row.largest:.4g}", *numbers, row.verdict])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for place, *numbers, verdict in cells:
        aligned = [number.rjust(width) for number, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join([place.ljust(widths[0]), *aligned, verdict]))
    lines.insert(1, "─" * max(map(len, lines)))
    return lines


def _finite(data: Any) -> Any:
    """The same data, with None for what JSON has no word for."""
    if isinstance(data, dict):
        return {name: _finite(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
