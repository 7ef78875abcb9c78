"""A progress bar for training, on standard error so that standard output stays clean."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from minitransformer.finetune.loop import Event


@contextmanager
def progress_bar() -> "Iterator[Callable[[Event], None]]":
    """Yields what a loop calls with each event: it shows loss, learning rate, speed and the time left, and scores."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("epoch {task.fields[epoch]:.1f}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  rate {task.fields[learning_rate]:.1e}"),
        TextColumn("{task.fields[tokens_per_second]:,.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))

    def watch(event: "Event") -> None:
        if event["event"] == "evaluation":
            shown = dict.fromkeys(("loss", event["metric"]))  # both, or one if they are the same
            scores = ", ".join(f"{name} {event[name]:.4g}" for name in shown)
            bar.console.print(f"step {event['step']:,}: {scores}{' (best)' if event['best'] else ''}", highlight=False)
        if event["event"] != "step":
            return
        if not bar.tasks:  # nothing is drawn before there is something to show
            bar.start()
            bar.add_task("training", total=event["steps"], completed=event["step"] - 1, **event)
        bar.update(bar.tasks[0].id, completed=event["step"], **event)

    try:
        yield watch
    finally:
        if bar.tasks:
            bar.stop()


@contextmanager
def bar_for_each_run() -> "Iterator[Callable[[Event], None]]":
    """Yields what several runs call with their events: each has a progress bar of its own, below its name."""
    with ExitStack() as stack:
        current: list[Callable[[Event], None]] = []

        def watch(event: "Event") -> None:
            if event["event"] != "run":
                current[-1](event)
                return
            stack.close()
            values = "  ".join(f"{name} {value}" for name, value in event["values"].items())
            typer.echo(f"{event['name']} ({event['number']} of {event['of']})  {values}", err=True)
            current.append(stack.enter_context(progress_bar()))

        yield watch
