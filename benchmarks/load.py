"""Seconds and peak memory of loading a model from disk, beside transformers, each in a new process, taking turns.

    python benchmarks/load.py [--rounds 5] [--only T5]

Random weights in published shapes (`models.py`). The file is in the page cache. The peak is what loading adds to the
process's resident memory, mapped pages of the file included; imports are done before either is measured. Then both
models run one batch, and the largest difference of their outputs is told beside the largest output.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from models import MODELS, make_batch
from timing import machine, table

import minitransformer as mt

OURS = "import minitransformer as mt; load = mt.load; mt.KVCache"
THEIRS = "import transformers; load = transformers.{}.from_pretrained; transformers.logging.disable_progress_bar()"
CHILD = """
import json, re, sys, time, torch
{}
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before, began = peak(), time.perf_counter()
model = load(sys.argv[1])
print(json.dumps({{"seconds": time.perf_counter() - began, "bytes": peak() - before}}))
"""
MEASURED = ("MiniLM-L6 (bert)", "BERT-base", "GPT-2", "T5-small", "BART-base", "ALBERT-base", "ViT-base", "Qwen2-0.5B")


def measure(imports: str, folder: str) -> dict[str, float]:
    """One load in a new process."""
    command = [sys.executable, "-c", CHILD.format(imports), folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


@torch.no_grad()
def match(folder: str, model_class: type, batch: dict[str, torch.Tensor]) -> tuple[float, float]:
    """The largest difference of the two models' outputs, and the largest output."""
    theirs = model_class.from_pretrained(folder).eval()(**batch)
    name = "logits" if "logits" in theirs else "last_hidden_state"
    expected, ours = theirs[name], getattr(mt.load(folder)(**batch), name)
    return float((ours - expected).abs().max()), float(expected.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="models whose name contains this")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    print(machine("torch", "transformers", "safetensors"), "\n")
    rows = []
    for name in MEASURED:
        if options.only.lower() not in name.lower():
            continue
        model_class, config = MODELS[name]
        with tempfile.TemporaryDirectory() as folder:
            model_class(config).save_pretrained(folder)
            size = (Path(folder) / "model.safetensors").stat().st_size
            imports = {"ours": OURS, "transformers": THEIRS.format(model_class.__name__)}
            runs: dict[str, list[dict[str, float]]] = {who: [] for who in imports}
            for _ in range(options.rounds + 1):
                for who, figures in runs.items():
                    figures.append(measure(imports[who], folder))
            difference, largest = match(folder, model_class, make_batch(config, 2, 32))
        seconds = {who: statistics.median(run["seconds"] for run in figures[1:]) for who, figures in runs.items()}
        peaks = {who: statistics.median(run["bytes"] for run in figures[1:]) / size for who, figures in runs.items()}
        rows.append(
            [name, f"{size / 1e6:.0f}"]
            + [f"{seconds[who]:.3f}" for who in ("transformers", "ours")]
            + [f"{seconds['ours'] / seconds['transformers']:.2f}"]
            + [f"{peaks[who]:.2f}" for who in ("transformers", "ours")]
            + [f"{difference:.1e} of {largest:.1f}"]
        )
        print(rows[-1], flush=True)
    header = [
        "model",
        "file, MB",
        "transformers, s",
        "ours, s",
        "ratio",
        "transformers' peak / file",
        "our peak / file",
        "difference",
    ]
    print(table(header, rows))


if __name__ == "__main__":
    main()
