"""`minitransformer generate NAME [PROMPT]`: text, as it is written."""

import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from minitransformer.errors import InputError


def command(
    name: Annotated[str, typer.Argument(help="A model that writes: a folder, a hub id, or builtin:shakespeare.")],
    prompt: Annotated[
        str | None, typer.Argument(help="What to go on with, or the source; by default standard input.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="A task that config.json names, such as summarization.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="How many tokens to write at most.")] = None,
    min_new_tokens: Annotated[int | None, typer.Option(help="How many tokens to write at least.")] = None,
    sample: Annotated[bool | None, typer.Option(help="Draw each token, or take the most probable one.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Below 1: surer; above 1: bolder.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from so many tokens; 0: from all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the fewest tokens with this probability.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Draw from tokens so probable, times the first.")] = None,
    beams: Annotated[int | None, typer.Option(help="How many texts a beam search keeps.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1: fewer repetitions.")] = None,
    no_repeat_ngram_size: Annotated[int | None, typer.Option(help="No sequence of this many tokens twice.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End at this text; may be given several times.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same text.")] = None,
) -> None:
    """Go on with a text, translate or summarise it; what the options leave open, generation_config.json says."""
    from minitransformer.loading import load

    if prompt is None and sys.stdin.isatty():
        raise typer.BadParameter("nothing to go on with; give a prompt, or pipe one")
    text = piped().rstrip("\n") if prompt is None else prompt
    options = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "do_sample": sample,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "num_beams": beams,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "stop_strings": stop or None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    model = load(name)
    pieces = model.stream(text, task=task, seed=seed, **given)
    if model.transformer.encoder is None:
        typer.echo(text, nl=False)
    show(pieces)


def piped() -> str:
    """The text on standard input, which is UTF-8 whatever the terminal is set to, as in a file."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: byte {error.start} is not UTF-8; pipe a text that is") from None


def show(pieces: Iterator[str]) -> None:
    """Print pieces as they come, and then on standard error how fast they came: one for each token, and the rest."""
    began, count = time.perf_counter(), 0
    try:
        for count, piece in enumerate(pieces):  # noqa: B007
            typer.echo(piece, nl=False)
            sys.stdout.flush()
    finally:
        typer.echo()
        seconds = time.perf_counter() - began
        if count:
            typer.echo(f"({count} tokens, {count / seconds:.1f} tokens/s)", err=True)
