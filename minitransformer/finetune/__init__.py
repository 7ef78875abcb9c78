"""How a run goes: rows from files, a recipe, the loop, a folder at the end.

Read `loop.py` first. Nothing heavy is imported here: `minitransformer.finetune` is also the name of the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from minitransformer.finetune.loop import Step
    from minitransformer.finetune.recipe import Recipe
    from minitransformer.finetune.run import Run
    from minitransformer.tasks import Row


def finetune(
    name: str | PathLike[str],
    task: str,
    rows: str | PathLike[str] | Sequence[Row],
    *,
    out: str | PathLike[str],
    held_out: str | PathLike[str] | Sequence[Row] | float = 0.1,
    text: str = "text",
    label: str = "label",
    recipe: Recipe | None = None,
    watch: Callable[[Step], None] | None = None,
) -> Run:
    """Fine-tune the model `name` and write it to the folder `out`, which transformers reads, too.

    `task`: "classify". `rows`: a csv, tsv or jsonl file with a column of texts and one of labels (called `text` and
    `label` there), or a list of Rows. `held_out`: a share of them to judge by, or rows of their own. `watch` is called
    with each step's figures. Raises a DataError for rows that cannot be used, before anything is trained.
    """
    from minitransformer.finetune.run import run

    return run(name, task, rows, out=out, held_out=held_out, text=text, label=label, recipe=recipe, watch=watch)
