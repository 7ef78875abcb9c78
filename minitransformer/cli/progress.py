"""A progress bar for training, on standard error so that standard output stays clean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minitransformer.finetune.loop import Step


@contextmanager
def progress_bar() -> "Iterator[Callable[[Step], None]]":
    """Yields what a loop calls with each step: it shows loss, learning rate, speed and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  rate {task.fields[rate]:.1e}  {task.fields[speed]:.0f} rows/s"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True))

    def watch(step: "Step") -> None:
        figures: dict[str, Any] = {
            "loss": step["loss"],
            "rate": step["learning_rate"],
            "speed": step["rows_per_second"],
        }
        if not bar.tasks:  # nothing is drawn before there is something to show
            bar.start()
            bar.add_task("training", total=step["steps"], epoch=step["epoch"], **figures)
        bar.update(bar.tasks[0].id, completed=step["step"], epoch=step["epoch"], **figures)

    try:
        yield watch
    finally:
        if bar.tasks:
            bar.stop()
