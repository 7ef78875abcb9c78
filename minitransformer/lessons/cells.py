"""Run code cells one after the other, as a notebook does: python -m minitransformer.lessons.cells CELLS.json TOLD.json

A program of its own, so that what it runs can take nothing down but itself. It writes what became of the exercises, and
which cells stopped with an error.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from minitransformer.lessons.check import verdicts


def main(cells: Path, told: Path) -> None:
    """CELLS: [number, code] of each. TOLD: verdicts and errors."""
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    errors = []
    for number, code in json.loads(cells.read_text(encoding="utf-8")):
        result = shell.run_cell(code)  # type: ignore[no-untyped-call]
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            errors.append(f"cell {number} stopped with {type(error).__name__}: {error!s:.200}")
    found = {"verdicts": [asdict(verdict) for verdict in verdicts()], "errors": errors}
    told.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
