"""`minitransformer chat NAME`: a conversation, turn by turn."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from minitransformer.cli.generate import show
from minitransformer.errors import InputError


def command(
    name: Annotated[str, typer.Argument(help="A model that was tuned to converse: a folder or a hub id.")],
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="A file with a chat template, for a tokenizer without one.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="How many tokens an answer has at most.")] = 256,
    sample: Annotated[bool | None, typer.Option(help="Draw each token, or take the most probable one.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Below 1: surer; above 1: bolder.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the fewest tokens with this probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same answers.")] = None,
) -> None:
    """Converse. An empty line, or the end of the input, ends it; Ctrl-C ends an answer."""
    from minitransformer.loading import load
    from minitransformer.text.files import read_text

    options = {"do_sample": sample, "temperature": temperature, "top_p": top_p}
    given = {name: value for name, value in options.items() if value is not None}
    template = None if chat_template is None else read_text(chat_template)
    chat = load(name).chat(system, chat_template=template, seed=seed, max_new_tokens=max_new_tokens, **given)
    left_out = 0
    while line := _question():
        answer = chat.say(line)
        if chat.left_out > left_out:
            typer.echo(f"(the first {chat.left_out} messages are left out: the model has no room for more)", err=True)
        left_out = chat.left_out
        try:
            show(answer)
        except KeyboardInterrupt:
            typer.echo("(interrupted)", err=True)


def _question() -> str:
    """The next line that the user writes; empty at the end."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: byte {error.start} is not UTF-8; pipe a text that is") from None
