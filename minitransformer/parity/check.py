"""The comparison as a whole: run both sides, compare them place by place, look for the cause."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitransformer.errors import ConfigError, InputError, MismatchError
from minitransformer.families import family_of
from minitransformer.loading import load, read_raw_config
from minitransformer.ops import BOOKS
from minitransformer.parity.batch import describe as describe_batch
from minitransformer.parity.batch import make_batch
from minitransformer.parity.cause import likely_cause
from minitransformer.parity.ours import borrowed, open_book, run_ours
from minitransformer.parity.parts import Part, parts
from minitransformer.parity.report import ALONE, FLOORS, THROUGH, ParityReport, Row, Verdict
from minitransformer.parity.theirs import Theirs, import_transformers, load_theirs, quiet
from minitransformer.parity.theirs_values import run_theirs, run_theirs_in_double
from minitransformer.parity.values import Values, at_tokens, difference, worst
from minitransformer.parity.weights import unlike
from minitransformer.pretrained import Pretrained
from minitransformer.storage import resolve

NO_FLOOR = "transformers computes this model's attention in one way only, so that its noise floor is not known"


@dataclass(frozen=True)
class Runs:
    """Every number of the comparison, by place."""

    ours: Mapping[str, Values]  # book -> float32
    ours_double: Values | None  # where it was asked for
    eager: Values  # transformers', float32
    sdpa: Values
    double: Values  # transformers' eager, float64
    one_kernel: bool  # transformers has no sdpa for this model


def check(
    model: str | PathLike[str] | Pretrained,
    texts: str | Sequence[str] | None,
    *,
    head: str | None,
    reference: str | PathLike[str] | None,
    double: bool,
) -> ParityReport:
    """See `parity`."""
    transformers = import_transformers()
    given, model = model, _loaded(model, head)
    folder = Path(model.report.source) if reference is None else resolve(reference)
    raw = model.raw_config if reference is None else _reference_config(model, folder)
    batch, notes = make_batch(model, texts)
    with quiet(transformers), torch.no_grad(), borrowed(model.transformer):
        theirs = load_theirs(transformers, model, folder, raw, own=reference is None)
        model.transformer.cpu().float().eval()
        weights = theirs.weights()
        notes += _unlike(model, weights)
        runs = _run(model, theirs, batch, double=double)
        every_part = parts(model.transformer, batch, runs.double)
        rows = _rows(runs, every_part)
        first = next((part for part, row in zip(every_part, rows, strict=True) if row.verdict == "diverges"), None)
        cause = None if first is None else likely_cause(first, {name: x.double() for name, x in weights.items()})
    fresh = f"{len(model.report.fresh)} weights are not in the files: both sides have the same new ones"
    notes += [fresh] * bool(model.report.fresh) + [NO_FLOOR] * runs.one_kernel
    return ParityReport(
        model=model.report.source if given is model else str(given),
        reference=str(folder),
        against=f"transformers {transformers.__version__} {type(theirs.model).__name__}",
        batch=describe_batch(batch),
        rows=tuple(rows),
        cause=cause,
        notes=tuple(notes),
    )


def _loaded(model: str | PathLike[str] | Pretrained, head: str | None) -> Pretrained:
    if not isinstance(model, Pretrained):
        if not isinstance(model, str | PathLike):
            raise InputError(f"model: got a {type(model).__name__}, expected a name or what load() returns")
        return load(model, head=head)
    task = model.transformer.config.task
    if head not in (None, task):
        raise InputError(f"head: got {head!r}, but the model is loaded with {task}; load it with head={head!r}")
    return model


def _reference_config(model: Pretrained, folder: Path) -> dict[str, Any]:
    raw = read_raw_config(folder)
    if family_of(raw).model_type != model.family.model_type:
        raise ConfigError(f"reference: got a {raw['model_type']}, expected a {model.family.model_type} like the model")
    return raw


def _unlike(model: Pretrained, weights: Values) -> list[str]:
    """A note on the weights that are not transformers'. An error if they are of another shape."""
    ours = model.transformer.state_dict()
    for name, x in weights.items():
        if name in ours and ours[name].shape != x.shape:
            raise MismatchError(
                f"{name}: got shape {list(ours[name].shape)}, expected {list(x.shape)} as in transformers"
            )
    names = unlike(ours, weights)
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return [f"{len(names)} of {len(weights)} weights are not transformers': {shown}"] if names else []


def _run(model: Pretrained, theirs: Theirs, batch: Mapping[str, Tensor], *, double: bool) -> Runs:
    eager = run_theirs(theirs, batch)
    theirs.model.set_attn_implementation("sdpa")
    one_kernel = theirs.model.config._attn_implementation != "sdpa"
    sdpa = run_theirs(theirs, batch)
    theirs.model.set_attn_implementation("eager")
    ours = {}
    for book in BOOKS:
        open_book(model.transformer, book)
        ours[book] = run_ours(model.transformer, batch, eager)
    if "pooler" not in ours["fused"]:
        eager.pop("pooler", None)  # the file has none, and transformers draws one
    for place in {**ours["fused"], **eager}:
        got, expected = (list(x[place].shape) if place in x else "nothing" for x in (ours["fused"], eager))
        if got != expected:
            raise MismatchError(f"{place}: got {got}, but transformers gives {expected}; is it the same model?")
    ours_double = None
    if double:
        with borrowed(model.transformer):
            open_book(model.transformer.double(), "fused")
            ours_double = run_ours(model.transformer, batch, eager)
    full = run_theirs_in_double(theirs, batch)
    return Runs(ours, ours_double, eager, sdpa, {place: full[place] for place in eager}, one_kernel)


def _rows(runs: Runs, every_part: Sequence[Part]) -> list[Row]:
    rows: list[Row] = []
    for part in every_part:
        theirs, full = runs.eager[part.place], runs.double[part.place]

        def apart(x: Tensor, of: Tensor, part: Part = part) -> float:
            return difference(x, of, part.real)

        through = {book: apart(values[part.place], theirs) for book, values in runs.ours.items()}
        floor = apart(runs.sdpa[part.place], theirs)
        tolerance = max(THROUGH, FLOORS * floor)
        alone = worst(part.alone().values())
        within = [x <= tolerance for x in through.values()]
        extra = {}
        if runs.ours_double is not None:
            extra["double"] = apart(runs.ours_double[part.place], full)
            extra["error_ours"] = apart(runs.ours["fused"][part.place].double(), full)
            extra["error_theirs"] = apart(theirs.double(), full)
            rounded = max([alone, *(row.alone for row in rows)])  # what the parts up to here differ by is handed on
            within.append(extra["double"] <= max(ALONE, FLOORS * rounded))
        verdict = _verdict(
            alone=alone <= part.tolerance, through=all(within), earlier=any(row.verdict == "diverges" for row in rows)
        )
        row = Row(
            place=part.place,
            largest=at_tokens(theirs, part.real).abs().max().item(),
            fused=through["fused"],
            by_hand=through["by_hand"],
            floor=floor,
            tolerance=tolerance,
            alone=alone,
            alone_tolerance=part.tolerance,
            verdict=verdict,
            **extra,
        )
        rows.append(row)
    return rows


def _verdict(*, alone: bool, through: bool, earlier: bool) -> Verdict:
    """A part that computes other numbers diverges; so does the first place whose numbers are other for no such part.

    `alone`, `through`: whether the part alone, and all from the input up to it, are within what is tolerated.
    """
    if not alone:  # or it is NaN
        return "diverges"
    if through:
        return "equal"
    return "inherited" if earlier else "diverges"
