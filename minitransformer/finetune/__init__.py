"""How a run goes: rows from files, a recipe, the loop, a folder at the end.

Read `loop.py` first. Nothing heavy is imported here: `minitransformer.finetune` is also the name of the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

    from minitransformer.finetune.data import Source
    from minitransformer.finetune.job import Run
    from minitransformer.finetune.loop import Event
    from minitransformer.finetune.recipe import Recipe


def finetune(
    name: str | PathLike[str],
    task: str,
    rows: Source,
    *,
    out: str | PathLike[str],
    dev: Source | float = 0.1,
    test: Source | float | None = None,
    columns: Mapping[str, str] | None = None,
    recipe: Recipe | None = None,
    resume: bool = False,
    watch: Callable[[Event], None] | None = None,
    **fields: Any,
) -> Run:
    """Fine-tune the model `name` and write it to the folder `out`, which transformers reads, too.

    `task`: classify, regress, multilabel, tag, relation, span, choice, lm, mlm, translate, summarize, dialogue, image.
    `rows`: a file, files, or a list of dicts; see `finetune.rows.read_rows`. `dev`, by which the best weights are
    chosen, and `test`, by which those are judged in the end: a share of the rows, a number of them, or rows of their
    own. `columns`: what our columns are called in the files, {"text": "review"}. `fields`: those of a `Recipe`, in
    place of one, such as epochs=3, train="lora". `watch` is called with each event of the loop, see
    `finetune.loop.train`. `resume`: go on with the run in `out`. The run's `metrics` are those of "dev" and "test".

    Before anything is trained it raises a DataError for rows that cannot be used, a ConfigError for a task or a recipe
    that does not fit the model, a StorageError for a folder that cannot be written to; then a NotFiniteError at numbers
    that are none, and a StoppedError once a signal has stopped the run and it is saved.
    """
    from minitransformer.errors import ConfigError
    from minitransformer.finetune.recipe import from_json
    from minitransformer.finetune.run import run
    from minitransformer.finetune.start import check_recipe

    if recipe is not None and fields:
        raise ConfigError(f"recipe: got one, and {', '.join(fields)} besides; give one or the other")
    recipe = recipe or from_json(fields)
    check_recipe(task, recipe)
    return run(
        name,
        task,
        rows,
        out=out,
        dev=dev,
        test=test,
        columns=columns,
        recipe=recipe,
        resume=resume,
        watch=watch,
    )
