"""`minitransformer families`: which checkpoints load, and what the tests found."""

import json as json_format
from typing import Annotated, Any

import typer

from minitransformer.cli import last_test_run
from minitransformer.cli.last_test_run import Result
from minitransformer.errors import CorruptFileError
from minitransformer.families import FAMILIES, Family

SHORT = {
    "sequence-classification": "seq-cls",
    "token-classification": "token-cls",
    "question-answering": "qa",
    "multiple-choice": "choice",
    "next-sentence-prediction": "next-sent",
    "image-classification": "img-cls",
    "image-classification-with-teacher": "img-teacher",
}


def command(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with the heads' whole names.")] = False,
) -> None:
    """List the checkpoint families that load, what is their own, and what the last test run here found."""
    found = _found()
    if json:
        typer.echo(json_format.dumps([_as_data(FAMILIES[name], last) for name, last in found.items()], indent=2))
    else:
        _show(found)


def _found() -> dict[str, Result | str]:
    """What the last test run found of each family, or why there is nothing."""
    try:
        results, otherwise = last_test_run.read(), "not run here"
    except CorruptFileError as error:
        typer.echo(f"minitransformer: {error}", err=True)
        results, otherwise = {}, "unreadable"
    return {name: results.get(name, otherwise) for name in FAMILIES}


def _as_data(family: Family, last: Result | str) -> dict[str, Any]:
    parity: dict[str, Any] = {"status": last}
    if isinstance(last, Result):
        parity = {"status": "equal" if last.equal else "different", **last.to_dict()}
    return {
        "family": family.model_type,
        "differs": family.differs,
        "heads": dict(family.classes),
        "tokenizer": family.tokenizer or None,
        "parity": parity,
    }


def _show(found: dict[str, Result | str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("family", no_wrap=True)
    table.add_column("what differs in the mathematics")
    table.add_column("heads")
    table.add_column("tokenizer", no_wrap=True)
    table.add_column("parity", min_width=12, max_width=13)
    for name, last in found.items():
        family = FAMILIES[name]
        heads = ", ".join(SHORT.get(head, head) for head in family.classes)
        tokenizer = family.tokenizer.removesuffix("Tokenizer") or "(images)"
        table.add_row(name, family.differs, heads, tokenizer, _told(family, last))
    console = Console(markup=False, highlight=False, emoji=False)
    console.print(table)
    console.print("heads:", ", ".join(f"{short} = {head}" for head, short in SHORT.items()))
    console.print("tokenizer: the class in transformers, without the word Tokenizer")
    console.print(
        "parity: heads with the numbers of transformers in the last test run here, and the largest difference"
    )
    for run in dict.fromkeys(_run(last) for last in found.values() if isinstance(last, Result)):
        console.print(run)
    console.print("For a model of your own: minitransformer parity NAME", soft_wrap=True)


def _told(family: Family, last: Result | str) -> str:
    """A result in a few words."""
    if isinstance(last, str):
        return last
    told = [f"{last.passed} of {last.ran} equal"]
    if last.largest_difference is not None:
        told.append(f"to {last.largest_difference:.1e}")
    if last.ran < len(family.classes):
        told.append(f"{len(family.classes) - last.ran} not run")
    return ", ".join(told)


def _run(last: Result) -> str:
    return f"tested {last.when.date()} with torch {last.torch}, transformers {last.transformers}"
