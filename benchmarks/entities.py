"""Named entities beside transformers: MiniLM on WNUT-17, the same rows, rate, batches and epochs.

python benchmarks/entities.py --data FOLDER [--epochs 8] [--seeds 3]

FOLDER has train.conll and dev.conll. Each run is a process of its own, and they take turns. F1 is that of whole
entities on dev after the last epoch, as seqeval counts them (the same as CoNLL's script); no epoch is chosen by it.
transformers' Trainer is used as in its token classification example: a word's label at its first token, and batches of
sentences of like length, as ours are. (It does not judge the four words of dev that have no token; ours calls them O.)
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from finetune import MODEL, peak
from timing import machine, table

RATE, BATCH, LENGTH = 2e-4, 32, 256
RUNS = ("ours", "Trainer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--child", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child](options)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for seed in range(options.seeds):
        for name in RUNS:
            command = [sys.executable, __file__, *sys.argv[1:], "--child", name, "--seed", str(seed)]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            found[name].append(json.loads(printed.splitlines()[-1]))
    print(machine("torch", "transformers", "seqeval", "minitransformer"))
    rows = [
        [
            name,
            " ".join(f"{run['f1']:.4f}" for run in runs),
            f"{statistics.mean(run['f1'] for run in runs):.4f}",
            f"{statistics.median(run['seconds'] for run in runs):.0f}",
            f"{statistics.median(run['mib'] for run in runs):.0f}",
        ]
        for name, runs in found.items()
    ]
    print(table(["", "F1, by seed", "mean", "seconds", "peak MiB"], rows))


def ours(options: argparse.Namespace) -> dict[str, float]:
    import minitransformer as mt

    recipe = mt.Recipe(
        epochs=options.epochs, learning_rate=RATE, batch_size=BATCH, max_length=LENGTH, seed=options.seed,
        evaluate_every=options.epochs,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        run = mt.finetune(
            MODEL,
            "tag",
            str(options.data / "train.conll"),
            dev=str(options.data / "dev.conll"),
            out=Path(scratch, "run"),
            recipe=recipe,
        )
        return {"seconds": time.perf_counter() - began, "mib": peak(), "f1": run.metrics["dev"]["f1"]}


def sentences(path: Path) -> list[tuple[list[str], list[str]]]:
    """The words and tags of each sentence of a file with a word and its tag in each line."""
    found: list[tuple[list[str], list[str]]] = [([], [])]
    for line in path.read_text("utf-8").splitlines():
        if line.strip():
            found[-1][0].append(line.split("\t")[0])
            found[-1][1].append(line.split("\t")[-1])
        else:  # some of the blank lines have white space in them
            found.append(([], []))
    return [sentence for sentence in found if sentence[0]]


def trainer(options: argparse.Namespace) -> dict[str, float]:
    import transformers
    from seqeval.metrics import f1_score

    from minitransformer.storage import resolve

    transformers.utils.logging.set_verbosity_error()
    transformers.set_seed(options.seed)
    began = time.perf_counter()
    training, judged = (sentences(options.data / f"{part}.conll") for part in ("train", "dev"))
    labels = sorted({tag for _, tags in training for tag in tags})
    tokenizer = transformers.AutoTokenizer.from_pretrained(resolve(MODEL))
    model = transformers.AutoModelForTokenClassification.from_pretrained(resolve(MODEL), num_labels=len(labels))

    def encoded(rows: list[tuple[list[str], list[str]]]) -> list[dict[str, object]]:
        batch = tokenizer([words for words, _ in rows], is_split_into_words=True)
        if max(map(len, batch["input_ids"])) > LENGTH:
            raise SystemExit("some words would be cut off; raise LENGTH")
        examples = []
        for i, (_, tags) in enumerate(rows):
            words = batch.word_ids(i)
            first = [word is not None and word != before for word, before in zip(words, [None, *words], strict=False)]
            numbers = [
                labels.index(tags[word]) if new else -100 for word, new in zip(words, first, strict=True)
            ]  # -100: not judged
            examples.append({**{name: values[i] for name, values in batch.items()}, "labels": numbers})
        return examples

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
            train_sampling_strategy="group_by_length",
        )
        runner = transformers.Trainer(
            model,
            arguments,
            train_dataset=encoded(training),
            data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
        )
        runner.train()
        found = runner.predict(encoded(judged))  # in an order of its own: the labels are in the same
    pairs = [
        [(labels[right], labels[said]) for right, said in zip(*row, strict=True) if right != -100]
        for row in zip(found.label_ids, found.predictions.argmax(-1), strict=True)
    ]
    score = f1_score([[right for right, _ in row] for row in pairs], [[said for _, said in row] for row in pairs])
    return {"seconds": time.perf_counter() - began, "mib": peak(), "f1": float(score)}


CHILDREN = {"ours": ours, "Trainer": trainer}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
