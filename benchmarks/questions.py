"""Questions about a text: MiniLM on a sample of SQuAD, and how much of it so few questions teach.

python benchmarks/questions.py --data FILE [--epochs 10] [--seed 0]

FILE is laid out as SQuAD 2.0. A fifth of the paragraphs, with all of their questions, is held out: no paragraph that is
judged by was trained on. Two runs: on all questions, where "" is the right answer to those that have none, and on those
that have one. Each is judged after its last epoch; none is chosen by these rows.
"""

import argparse
import random
import tempfile
import time
import warnings
from pathlib import Path

from finetune import MODEL, peak
from timing import machine, table

import minitransformer as mt
from minitransformer.finetune.rows import read_rows
from minitransformer.metrics import spans
from minitransformer.tasks import Row

RATE, BATCH = 1e-4, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    train, dev = by_paragraph(read_rows([str(options.data)], "span"), options.seed)
    runs = {"all": (train, dev), "with an answer": ([*filter(answered, train)], [*filter(answered, dev)])}
    print(machine("torch", "minitransformer"))
    lines = [[name, *figures(*rows, options)] for name, rows in runs.items()]
    header = ["questions", "trained on", "judged by", "exact match", "F1", "of those with an answer, F1"]
    print(table([*header, 'always "", F1', "seconds"], lines))
    print(f"at most {peak():.0f} MiB")


def by_paragraph(rows: list[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """The rows to train on, and those of a fifth of the paragraphs."""
    paragraphs = sorted({row["context"] for row in rows})
    held_out = set(random.Random(seed).sample(paragraphs, len(paragraphs) // 5))
    return [row for row in rows if row["context"] not in held_out], [row for row in rows if row["context"] in held_out]


def answered(row: Row) -> bool:
    return bool(row["answers"])


def figures(train: list[Row], dev: list[Row], options: argparse.Namespace) -> list[str]:
    """Train on some rows; how many there are, how good the model is on others, and what it took."""
    recipe = mt.Recipe(
        epochs=options.epochs, learning_rate=RATE, batch_size=BATCH, seed=options.seed, evaluate_every=options.epochs
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        run = mt.finetune(MODEL, "span", train, dev=dev, out=Path(scratch, "run"), recipe=recipe)
    seconds, scores = time.perf_counter() - began, run.metrics["dev"]
    part = [*filter(answered, dev)]
    found = mt.evaluate(run.model, part, "span").metrics["f1"]
    silent = spans([""] * len(dev), [[answer["text"] for answer in row["answers"]] for row in dev])["f1"]
    scored = [f"{value:.3f}" for value in (scores["exact_match"], scores["f1"], found, silent)]
    return [str(len(train)), str(len(dev)), *scored, f"{seconds:.0f}"]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
