"""Seconds until a process is ready: imports and --help, each in a new process, taking turns.

python benchmarks/startup.py [--rounds 11]
"""

import argparse
import subprocess
import sys
from functools import partial

from timing import interleaved, machine, table

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "import torch, minitransformer": ["-c", "import torch, minitransformer"],
    "import torch; from minitransformer import load": ["-c", "import torch; from minitransformer import load"],
    "import torch, transformers": ["-c", "import torch, transformers"],
    "import torch; from transformers import BertModel": ["-c", "import torch; from transformers import BertModel"],
    "minitransformer --help": ["-m", "minitransformer", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    run = partial(subprocess.run, capture_output=True, check=True)
    runs = {name: partial(run, [sys.executable, *arguments]) for name, arguments in COMMANDS.items()}
    seconds = interleaved(runs, rounds=options.rounds)
    print(machine("torch", "transformers"), "\n")
    base = seconds["import torch"]
    rows = [[f"`{name}`", f"{s:.3f}", f"{s - base:+.3f}"] for name, s in seconds.items()]
    print(table(["command", "s", "beside import torch"], rows))


if __name__ == "__main__":
    main()
