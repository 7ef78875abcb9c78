"""Seconds and peak memory of loading a model from disk, beside transformers, each in a new process, taking turns.

    python benchmarks/load.py [--rounds 5]

Random weights in the shapes of MiniLM-L6, BERT-base and GPT-2. The file is in the page cache. The peak is what loading
adds to the process's resident memory, mapped pages of the file included; imports are done before either is measured.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import transformers
from forward import MODELS
from timing import machine, table

CHILD = """
import json, re, sys, time
import torch, transformers
import minitransformer as mt
mt.load, mt.KVCache                      # imports what loading needs
from transformers import AutoModel, BertModel, GPT2Model
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
load = {"ours": mt.load, "transformers": AutoModel.from_pretrained}[sys.argv[1]]
before, began = peak(), time.perf_counter()
model = load(sys.argv[2])
print(json.dumps({"seconds": time.perf_counter() - began, "bytes": peak() - before}))
"""


def measure(who: str, folder: str) -> dict[str, float]:
    """One load in a new process."""
    done = subprocess.run([sys.executable, "-c", CHILD, who, folder], capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    print(machine("torch", "transformers", "safetensors"), "\n")
    rows = []
    for name, (model_class, config) in MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            model_class(config).save_pretrained(folder)
            size = (Path(folder) / "model.safetensors").stat().st_size
            runs: dict[str, list[dict[str, float]]] = {"ours": [], "transformers": []}
            for _ in range(options.rounds + 1):
                for who, figures in runs.items():
                    figures.append(measure(who, folder))
        seconds = {who: statistics.median(run["seconds"] for run in figures[1:]) for who, figures in runs.items()}
        peaks = {who: statistics.median(run["bytes"] for run in figures[1:]) / size for who, figures in runs.items()}
        rows.append(
            [name, f"{size / 1e6:.0f}"]
            + [f"{seconds[who]:.3f}" for who in ("transformers", "ours")]
            + [f"{seconds['ours'] / seconds['transformers']:.2f}"]
            + [f"{peaks[who]:.2f}" for who in ("transformers", "ours")]
        )
    header = [
        "model",
        "file, MB",
        "transformers, s",
        "ours, s",
        "ratio",
        "transformers' peak / file",
        "our peak / file",
    ]
    print(table(header, rows))


if __name__ == "__main__":
    main()
