"""What a check found: plain data, and how it is printed."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from minitransformer.finetune.report.shown import one_line, shorten

PLACES = 3  # that are named of each finding
LABELS = 20  # that are listed
TOKENS = 40  # that are shown of each example
WIDTH = 110  # of a line of tokens


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about rows: what it is, how many have it, and the first of them."""

    what: str
    count: int
    places: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long the rows of a split are in tokens, and what of them a run does not read."""

    tokens: int  # in full, all rows together
    mean: float
    percentile_95: int
    longest: int
    longest_target: int  # of what is to be written; 0 where nothing is
    rows_cut: int
    tokens_lost: int
    windows: int  # how many examples the rows make: more than rows where long ones are read in windows
    judged: int  # how many labels, words, answers or tokens there are to learn, in full
    judged_lost: int  # how many of those are cut off
    unknown: int  # tokens that stand for what is not in the vocabulary


@dataclass(frozen=True, kw_only=True)
class Part:
    """One split: its rows, and where they come from."""

    rows: int
    source: str
    columns: tuple[str, ...]
    labels: dict[str, int]  # how many rows (of tags, words) have each label
    lengths: Lengths | None  # None where there are no tokens, or no model could be made for these rows


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An example, decoded back from the tensors that the model gets."""

    where: str
    tokens: tuple[str, ...]
    labels: tuple[str | None, ...]  # of each token, None where none is judged; empty where none has one
    target: str  # what is to be learned besides
    padding: int  # tokens behind

    @property
    def predicts_itself(self) -> bool:
        """Whether the label of each token that has one is the token: it is to be predicted from those before it."""
        return bool(self.labels) and all(
            label in (None, token) for token, label in zip(self.tokens, self.labels, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run will need. Bytes of weights, gradients and moments are exact; of activations and time, estimated."""

    parameters: int
    training: int
    weights: int
    gradients: int
    moments: int
    activations: int
    batch_rows: int  # of the largest part of a batch that is computed at once
    batch_tokens: int  # of each of its rows
    steps: int
    seconds_per_step: float
    seconds: float
    device: str

    @property
    def memory(self) -> int:
        """All bytes together."""
        return self.weights + self.gradients + self.moments + self.activations


@dataclass(frozen=True, kw_only=True)
class RowsReport:
    """Rows as a run would read them. `stops` would stop it; `remarks` would not, but may make it worthless."""

    model: str
    task: str
    parts: dict[str, Part]  # of train, dev and test, those that there are
    labels: tuple[str, ...]  # in the order of their numbers
    stops: tuple[Finding, ...]
    remarks: tuple[Finding, ...]
    # The rest is not known where no model could be made for these rows.
    judged: str = ""  # what can be lost of what is to be learned: words, answers, tokens
    max_length: int | None = None
    highest_length: int | None = None  # the highest max_length that the model and the task can have
    full_length: int | None = None  # the lowest max_length with which each row is read at once
    baseline: str = ""  # how good it is to say always the same
    examples: tuple[Shown, ...] = ()
    cost: Cost | None = None

    @property
    def usable(self) -> bool:
        """Whether a run would get as far as training."""
        return not self.stops

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a program."""
        return {"usable": self.usable, **asdict(self)}

    def __str__(self) -> str:
        verdict = "ready to train" if self.usable else "a run would stop; see 'stops'"
        lines = [f"{self.model}, task {self.task}: {verdict}", ""]
        for name, part in self.parts.items():
            rows = "row" if part.rows == 1 else "rows"
            lines.append(f"  {name:<8} " + one_line(f"{part.rows:,} {rows}, {part.source} ({', '.join(part.columns)})"))
        for title, found in (("stops", self.stops), ("remarks", self.remarks)):
            lines += ["", title, *(line for each in found for line in _finding(each))] if found else []
        lines += [*_lengths(self), *_labels(self)]
        if self.examples:
            unjudged = "; (in parentheses): not judged" if any(each.predicts_itself for each in self.examples) else ""
            lines += ["", f"examples, decoded back from the batch that the model gets{unjudged}"]
            lines += [line for example in self.examples for line in _example(example)]
        return "\n".join(lines + (_cost(self.cost) if self.cost else []))


def _finding(found: Finding) -> Iterator[str]:
    count = f"{found.count:,} × " if found.count > 1 else ""
    yield f"  {one_line(count + found.what)}"
    yield from (f"      {one_line(place)}" for place in found.places)
    if found.places and found.count > len(found.places):
        yield "      …"


def _table(title: str, names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Rows of columns under the names of the splits, to the right."""
    left = max(len(title), *(2 + len(name) for name, _ in rows))
    width = max(8, *(len(cell) for _, cells in rows for cell in cells))
    lines = ["", f"{title:<{left}}" + "".join(f"  {name:>{width}}" for name in names)]
    return lines + [f"  {name:<{left - 2}}" + "".join(f"  {cell:>{width}}" for cell in cells) for name, cells in rows]


def _lengths(report: RowsReport) -> list[str]:
    found = {name: part.lengths for name, part in report.parts.items() if part.lengths is not None}
    if not found:
        return []
    each = found.values()
    rows = [
        ("in all", [f"{x.tokens:,}" for x in each]),
        ("mean of a row", [f"{x.mean:,.1f}" for x in each]),
        ("95 % of rows up to", [f"{x.percentile_95:,}" for x in each]),
        ("longest row", [f"{x.longest:,}" for x in each]),
        ("rows cut", [_share(x.rows_cut, report.parts[name].rows) for name, x in found.items()]),
        ("tokens cut off", [_share(x.tokens_lost, x.tokens) for x in each]),
        ("unknown tokens", [_share(x.unknown, x.tokens) for x in each]),
    ]
    if any(x.windows != report.parts[name].rows for name, x in found.items()):
        rows.insert(4, ("windows read", [f"{x.windows:,}" for x in each]))
    if any(x.longest_target for x in each):
        rows.append(("longest target", [f"{x.longest_target:,}" for x in each]))
    if report.judged:
        rows.append((f"{report.judged} lost", [_share(x.judged_lost, x.judged) for x in each]))
    return [*_table("tokens", list(found), rows), f"  {_limit(report)}"]


def _limit(report: RowsReport) -> str:
    """What max_length is, and what it would have to be."""
    if report.max_length is None:
        return "no max_length"
    limit, full, highest = f"max_length {report.max_length:,}", report.full_length or 0, report.highest_length
    if full <= report.max_length:
        return limit
    if highest is not None and full > highest:
        return f"{limit}, {highest:,} at most with this model and task; the longest row has {full:,}"
    return f"{limit}; with {full:,}, every row would be read at once"


def _labels(report: RowsReport) -> list[str]:
    if not report.labels:
        return ["", f"baseline: {report.baseline}"] if report.baseline else []
    totals = [max(1, sum(part.labels.values())) for part in report.parts.values()]
    counts = {label: [part.labels.get(label, 0) for part in report.parts.values()] for label in report.labels}
    frequent = sorted(counts, key=lambda label: -sum(counts[label]))[:LABELS]
    rows = [
        (
            f"{number} {shorten(label, 30)}",
            [_share(count, total) for count, total in zip(counts[label], totals, strict=True)],
        )
        for number, label in enumerate(report.labels)
        if label in frequent
    ]
    lines = _table("labels", list(report.parts), rows)
    if len(report.labels) > LABELS:
        lines.append(f"  … and {len(report.labels) - LABELS} rarer ones")
    return [*lines, f"  baseline: {one_line(report.baseline)}"] if report.baseline else lines


def _example(example: Shown) -> Iterator[str]:
    """What the model reads and what it learns: token→label, or (token) where only others are predicted."""
    target = f": {one_line(example.target)}" if example.target else ""
    yield f"  {one_line(example.where)}{target}"
    labels = example.labels or (None,) * len(example.tokens)
    pairs = list(zip(example.tokens, labels, strict=True))
    if example.predicts_itself:
        cells = [token if label else f"({token})" for token, label in pairs]
    else:
        cells = [token if label is None else f"{token}→{label}" for token, label in pairs]
    more = [f"… {len(cells) - TOKENS} more"] if len(cells) > TOKENS else []
    padding = [f"+ {example.padding} padding"] if example.padding else []
    text = " ".join([one_line(cell) for cell in cells[:TOKENS]] + more + padding)
    indent = " " * 4
    yield from textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _cost(cost: Cost) -> list[str]:
    parts = [
        ("weights", cost.weights, f"{cost.parameters:,} parameters"),
        ("gradients", cost.gradients, f"{cost.training:,} of them train ({cost.training / cost.parameters:.1%})"),
        ("moments", cost.moments, "the optimizer's"),
        ("activations", cost.activations, f"about; {cost.batch_rows} rows of {cost.batch_tokens} tokens at once"),
        ("in all", cost.memory, ""),
    ]
    lines = ["", f"memory and time on this {cost.device}"]
    lines += [f"  {name:<12} {size / 2**20:10,.1f} MiB  {about}".rstrip() for name, size, about in parts]
    each = f"{cost.steps:,} steps of about {cost.seconds_per_step:.3g} s"
    return [*lines, f"  {'training':<12} {_duration(cost.seconds):>14}  {each}, without evaluations"]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _share(count: int, total: int) -> str:
    """A number, and what share of all that is."""
    if not count:
        return "0"
    share = count / max(1, total)
    return f"{count:,} ({share:.1%})" if share >= 0.0005 else f"{count:,} (<0.1%)"
