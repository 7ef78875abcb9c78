"""The model card: README.md of a run's folder, for people, and for the hub, which reads its first lines."""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from minitransformer.finetune.report.shown import markdown, one_line
from minitransformer.storage.hub import is_repo_id
from minitransformer.tasks import TASKS

Results = Mapping[str, Sequence[Mapping[str, float]]]  # of "dev" and "test": the scores of each run, by seed

CLASSES = {  # of each head: transformers' class for it, without AutoModelFor
    "sequence-classification": "SequenceClassification",
    "token-classification": "TokenClassification",
    "question-answering": "QuestionAnswering",
    "multiple-choice": "MultipleChoice",
    "causal-lm": "CausalLM",
    "masked-lm": "MaskedLM",
    "seq2seq-lm": "Seq2SeqLM",
    "image-classification": "ImageClassification",
}
MOST_LABELS = 100


def model_card(
    *,
    name: str,
    task: str,
    base_model: str,
    data: str,
    rows: Mapping[str, int],
    sha256: str | None = None,
    recipe: Mapping[str, Any],
    results: Results,
    labels: Sequence[str] = (),
    for_transformers: bool = True,
    pictures: Sequence[str] = (),
) -> str:
    """The text of README.md.

    `name`: what to load it by, a folder or a name on the hub. `base_model`: what it was made from. `data`: the name of
    the rows; `rows`: how many there are of "train", "dev", "test"; `sha256`: of all of them. `results`: for "dev" and
    "test" the scores of each run; of several, by several seeds, mean ± standard deviation are shown.
    `for_transformers`: whether transformers can load it. `pictures`: files beside the card.
    """
    kind = TASKS[task].kind
    front = front_matter(name, task, kind.pipeline, base_model, data, results)
    theirs = transformers_code(name, CLASSES[kind.head]) if for_transformers else []
    parts = [
        f"---\n{front}\n---",
        f"# {markdown(name)}",
        f"Fine-tuned from {markdown(base_model)} with minitransformer: task `{task}`, data {markdown(data)}.",
        "## Use",
        *code("import minitransformer as mt", "", f"model = mt.load({name!r})", f"print({kind.example})"),
        *theirs,
        "## Data",
        table(("part", "rows"), [(part, f"{count:,}") for part, count in rows.items()]),
        *([f"SHA-256 of all rows: `{one_line(sha256)}`"] if sha256 else []),
        "## Results",
        results_table(results),
        *(f"![]({quote(one_line(picture))})" for picture in pictures),
        *(["## Labels", label_list(labels)] if labels else []),
        "## Recipe",
        table(("field", "value"), [(key, value) for key, value in recipe.items() if value is not None]),
        "## Limits",
        "\n".join(f"- {sentence}" for sentence in limits(rows)),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(name: str, task: str, pipeline: str, base_model: str, data: str, results: Results) -> str:
    """What the hub reads, as YAML. Without what it would refuse: a base model that is a folder, scores without end."""
    from huggingface_hub import EvalResult, ModelCardData

    scores = [
        EvalResult(
            task_type=pipeline,
            dataset_name=one_line(data) or "data",
            dataset_type=re.sub(r"[^A-Za-z0-9._-]+", "-", one_line(data)).strip("-.") or "data",
            dataset_split=part,
            metric_type=metric,
            metric_name=metric,
            metric_value=round(value, 6),
        )
        for part, runs in results.items()
        for metric, value, _ in means(runs)
        if math.isfinite(value)
    ]
    on_hub = is_repo_id(base_model) and not Path(base_model).exists()
    card = ModelCardData(
        model_name=one_line(name) or "model",
        library_name="minitransformer",
        pipeline_tag=pipeline,
        tags=["minitransformer", task],
        base_model=base_model if on_hub else None,
        eval_results=scores or None,
    )
    return str(card.to_yaml())


def means(runs: Sequence[Mapping[str, float]]) -> list[tuple[str, float, float | None]]:
    """Of each metric its name, the mean of the runs, and the standard deviation; None of a single run."""
    found = []
    for metric in runs[0] if runs else ():
        values = [run[metric] for run in runs]
        finite = len(values) > 1 and all(map(math.isfinite, values))
        found.append((metric, sum(values) / len(values), statistics.stdev(values) if finite else None))
    return found


def results_table(results: Results) -> str:
    """A row for each metric, a column for each part of the data."""
    parts = [part for part, runs in results.items() if runs]
    if not parts:
        return "Not judged: there were no rows for it."
    cells = {
        (metric, part): f"{mean:.4g}" if deviation is None else f"{mean:.4g} ± {deviation:.2g}"
        for part in parts
        for metric, mean, deviation in means(results[part])
    }
    metrics = dict.fromkeys(metric for metric, _ in cells)
    shown = table(("metric", *parts), [(m, *(cells.get((m, part), "") for part in parts)) for m in metrics])
    seeds = len(results[parts[0]])
    return shown if seeds == 1 else f"{shown}\n\nMean ± standard deviation of {seeds} runs with different seeds."


def limits(rows: Mapping[str, int]) -> list[str]:
    """What is true of every fine-tuned model, and of one that was judged as this one was."""
    sentences = [
        f"It learned from {rows.get('train', 0):,} rows. On texts or images of another kind expect worse than the "
        "scores above.",
        "What the base model has learned, its errors and biases too, is still in it.",
    ]
    if not rows.get("test"):
        sentences.append(
            "The best weights were chosen by the dev scores, so these flatter: no test rows were kept apart."
        )
    return sentences


def transformers_code(name: str, kind: str) -> list[str]:
    """How transformers loads it."""
    reader = "AutoImageProcessor" if kind == "ImageClassification" else "AutoTokenizer"
    return code(
        f"from transformers import AutoModelFor{kind}, {reader}",
        "",
        f"model = AutoModelFor{kind}.from_pretrained({name!r})",
        f"{'processor' if reader == 'AutoImageProcessor' else 'tokenizer'} = {reader}.from_pretrained({name!r})",
    )


def label_list(labels: Sequence[str]) -> str:
    """The labels, in the order of the model's outputs."""
    more = f", and {len(labels) - MOST_LABELS} more" if len(labels) > MOST_LABELS else ""
    return "As the outputs come: " + ", ".join(markdown(label) for label in labels[:MOST_LABELS]) + more


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [tuple(head), ("---",) * len(head), *(tuple(markdown(cell) for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def code(*lines: str) -> list[str]:
    """A block of Python."""
    return ["```python\n" + "\n".join(lines) + "\n```"]
