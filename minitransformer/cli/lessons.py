"""`minitransformer lessons list|copy|check`: the eight lessons, from the package to a reader's folder, and judged."""

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from minitransformer.lessons.run import Outcome

app = typer.Typer(
    help="Eight lessons, from one head of attention to a fine-tuned model, as notebooks with checks.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_lessons(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the lessons, and what their exercises ask for."""
    from minitransformer.lessons.book import LESSONS, exercises

    if json:
        found = [
            {**asdict(each), "exercises": {exercise.number: exercise.asks for exercise in exercises(each)}}
            for each in LESSONS
        ]
        typer.echo(json_format.dumps(found, indent=2, ensure_ascii=False))
        return
    for lesson in LESSONS:
        typer.secho(f"{lesson.number}. {lesson.title}", bold=True)
        for exercise in exercises(lesson):
            typer.echo(f"   {exercise.number}  {exercise.asks}")
    typer.echo("\nTo begin: minitransformer lessons copy DIR")


@app.command("copy")
def copy_lessons(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    solved: Annotated[bool, typer.Option("--solved", help="The solved notebooks, too.")] = False,
) -> None:
    """Copy the notebooks, with the syllabus, to a new folder."""
    from minitransformer.lessons.notebooks import copy

    notebooks = copy(folder, solved=solved)
    for notebook in notebooks:
        typer.echo(notebook)
    typer.echo(f"\nTo begin: jupyter lab {notebooks[0]}   (pip install 'minitransformer[lessons]' brings Jupyter)")


@app.command("check")
def check_notebooks(
    notebooks: Annotated[list[Path], typer.Argument(help="Notebooks, with a reader's answers in them.")],
    timeout: Annotated[int, typer.Option(min=1, help="Seconds that a notebook may take.")] = 600,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run notebooks and say which answers are right. This runs the code that is in them: run only what you trust.

    Exit code 0: all are right; 1: not yet; 2: one could not be judged.
    """
    from minitransformer.errors import InputError, NotFoundError
    from minitransformer.lessons.run import run

    found, codes = {}, {0}
    for notebook in notebooks:
        try:
            outcome = run(notebook, timeout=timeout)
            found[str(notebook)] = {"right": outcome.right, **asdict(outcome)}
            codes.add(0 if outcome.right else 1)
            if not json:
                _show(notebook, outcome)
        except (InputError, NotFoundError) as error:  # the others are judged all the same
            found[str(notebook)] = {"right": False, "error": str(error)}
            codes.add(2)
            typer.echo(f"minitransformer: {error}", err=True)
    if json:
        typer.echo(json_format.dumps(found, indent=2, ensure_ascii=False))
    raise typer.Exit(max(codes))


def _show(notebook: Path, outcome: "Outcome") -> None:
    from minitransformer.lens.words import visible

    typer.secho(visible(str(notebook)), bold=True)
    for verdict in outcome.verdicts:
        typer.echo(f"  {verdict}")
    for error in outcome.errors:
        typer.echo(f"  {visible(error)}")
    right = sum(verdict.state == "right" for verdict in outcome.verdicts)
    typer.echo(f"  {right} of {len(outcome.verdicts)} right\n")
