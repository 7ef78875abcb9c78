"""The command line: one thin file for each command. Nothing heavy is imported before a command runs."""

import os
import sys

import typer

from minitransformer.cli import (
    ablate,
    attention,
    chat,
    check,
    compare,
    evaluate,
    explain,
    export,
    families,
    find_lr,
    finetune,
    generate,
    heads,
    inspect,
    lens,
    lessons,
    merge,
    parity,
    patch,
    predict,
    push,
    quickstart,
    score,
    search,
    shapes,
    why,
)
from minitransformer.errors import DataError, MiniTransformerError, StoppedError, StorageError

app = typer.Typer(
    name="minitransformer",
    help="One Transformer to read, load, check against transformers, look into and fine-tune.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing what it needs would double the time of --help
)
app.command("quickstart")(quickstart.command)
app.command("inspect")(inspect.command)
app.command("families")(families.command)
app.command("parity")(parity.command)
app.command("finetune")(finetune.command)
app.command("check")(check.command)
app.command("find-lr")(find_lr.command)
app.command("search")(search.command)
app.command("compare")(compare.command)
app.command("evaluate")(evaluate.command)
app.command("predict")(predict.command)
app.command("merge")(merge.command)
app.command("export")(export.command)
app.command("push")(push.command)
app.command("generate")(generate.command)
app.command("chat")(chat.command)
app.command("score")(score.command)
app.command("attention")(attention.command)
app.command("explain")(explain.command)
app.command("shapes")(shapes.command)
app.command("heads")(heads.command)
app.command("lens")(lens.command)
app.command("why")(why.command)
app.command("ablate")(ablate.command)
app.command("patch")(patch.command)
app.add_typer(lessons.app, name="lessons")


def main() -> None:
    """Run a command. An error of ours is one message and an exit code: 65 for rows that cannot be used, 74 for a disk.

    A run that a signal stopped ends with 128 and the signal's number (130 for Ctrl-C), all other errors with 2.
    """
    if os.environ.get("RANK", "0") != "0":  # of the processes that torchrun has started, the first one prints
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    try:
        app()
    except MiniTransformerError as error:
        print(f"minitransformer: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"minitransformer: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(74)


def exit_code(error: MiniTransformerError) -> int:
    """The exit code for an error, as sysexits.h has them."""
    match error:
        case DataError():
            return 65
        case StorageError():
            return 74
        case StoppedError():
            return 128 + error.signal
    return 2
