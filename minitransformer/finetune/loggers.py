"""What other programs draw a run with: each reads the events of the loop, as the progress bar does.

    with loggers(["tensorboard", "wandb"], folder) as watch: ...

gives a function to call with each event. The loop knows nothing of it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from minitransformer.errors import ConfigError, DependencyError

Event = dict[str, Any]
Watch = Callable[[Event], None]


def numbers(event: Event) -> dict[str, float]:
    """What of an event is drawn: of a step "train/loss" and so on, of an evaluation "dev/…"; of others nothing."""
    part = {"step": "train", "evaluation": "dev"}.get(event["event"])
    if part is None:
        return {}
    kept = {name: x for name, x in event.items() if name not in ("step", "steps") and not isinstance(x, bool)}
    return {f"{part}/{name}": float(x) for name, x in kept.items() if isinstance(x, int | float)}


@contextmanager
def tensorboard(folder: Path) -> Iterator[Watch]:
    """Writes the event files that `tensorboard --logdir` shows into `folder`/tensorboard."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise _missing("tensorboard") from error
    writer: SummaryWriter | None = None

    def watch(event: Event) -> None:
        nonlocal writer
        if writer is None:  # the run makes its folder, which must be new, before its first event
            # After an interruption some steps come again: what is there of them is not shown.
            writer = SummaryWriter(str(folder / "tensorboard"), purge_step=event["step"])
        for name, x in numbers(event).items():
            writer.add_scalar(name, x, event["step"])

    try:
        yield watch
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def weights_and_biases(folder: Path) -> Iterator[Watch]:
    """Sends the events to Weights & Biases. With WANDB_MODE=offline they stay in `folder`/wandb until `wandb sync`."""
    try:
        wandb = import_module("wandb")
    except ImportError as error:
        raise _missing("wandb") from error
    run: Any = None

    def watch(event: Event) -> None:
        nonlocal run
        if run is None:
            run = wandb.init(project="minitransformer", name=folder.name, dir=str(folder))
        found = numbers(event)
        if found:
            run.log(found, step=event["step"])

    try:
        yield watch
    finally:
        if run is not None:
            run.finish()


LOGGERS = {"tensorboard": tensorboard, "wandb": weights_and_biases}


@contextmanager
def loggers(names: Sequence[str], folder: Path) -> Iterator[Watch]:
    """All of these at once. A ConfigError for one that is unknown, a DependencyError for one that is not installed."""
    unknown = [name for name in names if name not in LOGGERS]
    if unknown:
        raise ConfigError(f"log-to: got {', '.join(unknown)}, expected some of {', '.join(LOGGERS)}")
    with ExitStack() as stack:
        watches = [stack.enter_context(LOGGERS[name](folder)) for name in dict.fromkeys(names)]
        yield together(*watches)


def together(*watches: Watch) -> Watch:
    """One function that tells each of these of an event, in order."""

    def watch(event: Event) -> None:
        for each in watches:
            each(event)

    return watch


def _missing(package: str) -> DependencyError:
    return DependencyError(f"--log-to {package} needs the package {package}; pip install 'minitransformer[{package}]'")
