"""The command line: one thin file for each command. Nothing heavy is imported before a command runs."""

import sys

import typer

from minitransformer.cli import chat, families, finetune, generate, inspect, parity, predict, quickstart, score
from minitransformer.errors import MiniTransformerError

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
app.command("predict")(predict.command)
app.command("generate")(generate.command)
app.command("chat")(chat.command)
app.command("score")(score.command)


def main() -> None:
    """Run a command. An error of ours is one message and exit code 2; Ctrl-C is exit code 130, by typer."""
    try:
        app()
    except MiniTransformerError as error:
        print(f"minitransformer: {error}", file=sys.stderr)
        sys.exit(2)
