"""A progress bar for training, on standard error so that standard output stays clean."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    with Progress(*columns, console=Console(stderr=True)) as bar:
        running = bar.add_task("training", total=None, epoch=1, loss=0.0, rate=0.0, speed=0.0, visible=False)

        def watch(step: "Step") -> None:
            bar.update(
                running,
                completed=step["step"],
                total=step["steps"],
                epoch=step["epoch"],
                loss=step["loss"],
                rate=step["learning_rate"],
                speed=step["rows_per_second"],
                visible=True,
            )

        yield watch
