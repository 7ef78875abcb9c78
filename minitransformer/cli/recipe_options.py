"""An option of the command line for each field of a Recipe."""

import functools
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_type_hints

import typer

from minitransformer.finetune.recipe import Recipe


def with_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these options besides its own; it gets them as `recipe`, a Recipe."""
    types = get_type_hints(Recipe)
    options = [
        Parameter(
            each.name,
            Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=Annotated[
                types[each.name],
                typer.Option(help=each.metadata["about"], rich_help_panel="Recipe"),
            ],
        )
        for each in fields(Recipe)
    ]
    own = [each for each in signature(command, eval_str=True).parameters.values() if each.name != "recipe"]

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        recipe = Recipe(**{each.name: given.pop(each.name) for each in fields(Recipe)})
        command(**given, recipe=recipe)

    keyword_only = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in own]
    with_options.__signature__ = Signature([*keyword_only, *options])  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in (*keyword_only, *options)}
    del with_options.__wrapped__
    return with_options
