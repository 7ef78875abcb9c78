"""A few examples as the model gets them: decoded back from the tensors of a batch, with the label of each token."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from minitransformer.finetune.check.report import Shown
from minitransformer.finetune.randomness import seeded
from minitransformer.model.heads import IGNORED
from minitransformer.tasks.span import NOWHERE
from minitransformer.tasks.task import Example, Row, Task
from minitransformer.text import Tokenizer


def varied(examples: Sequence[Example], count: int) -> list[Example]:
    """A few examples, of different rows if there are, those first that have something to learn which no other has."""
    chosen: dict[int, Example] = {}  # by row
    seen: set[Any] = set()
    for example in examples:
        if len(chosen) < count and example.row not in chosen and not kinds(example) <= seen:
            chosen[example.row] = example
            seen |= kinds(example)
    for example in examples:
        if len(chosen) < count:
            chosen.setdefault(example.row, example)
    found = list(chosen.values())
    rest = [example for example in examples[: 2 * count] if not any(example is one for one in found)]
    return (found + rest)[:count]


def kinds(example: Example) -> set[Any]:
    """What there is to learn of an example: its labels, or that its window has an answer."""
    if isinstance(example.target, tuple):
        return set() if example.target == NOWHERE else {"an answer"}
    return {str(each) for each in example.target} if isinstance(example.target, list) else {example.target}


def shown(task: Task, rows: Sequence[Row], examples: Sequence[Example], seed: int) -> list[Shown]:
    """These examples, put into one batch and read back from it."""
    if not examples:
        return []
    with seeded(seed):
        batch = task.collate(examples)
    found = []
    for place, example in enumerate(examples):
        columns = {name: x[place] for name, x in batch.items()}
        found += list(decoded(task, rows[example.row], columns))
    return found


def decoded(task: Any, row: Row, columns: Mapping[str, Tensor]) -> Iterator[Shown]:
    """One row of a batch as text; each choice of a row by itself."""
    if "pixel_values" in columns:
        x = columns["pixel_values"]
        size = "×".join(map(str, x.shape))
        pixels = f"{size} numbers from {x.min():.2f} to {x.max():.2f}"
        yield Shown(where=row.where, tokens=(pixels,), labels=(), target=target_of(task, columns), padding=0)
    elif columns["input_ids"].ndim == 2:
        for number, ids in enumerate(columns["input_ids"]):
            right = "the right one" if number == int(columns["labels"]) else "a wrong one"
            mask = columns["attention_mask"][number] if "attention_mask" in columns else None
            yield one(task, f"{row.where}, choice {number}", {"input_ids": ids}, mask, right)
    else:
        yield one(task, row.where, columns, columns.get("attention_mask"), target_of(task, columns))


def one(task: Any, where: str, columns: Mapping[str, Tensor], mask: Tensor | None, target: str) -> Shown:
    """A text, token by token, with the label of each where it has one."""
    ids = columns["input_ids"]
    size = len(ids) if mask is None else int(mask.sum())
    tokens = task.tokenizer.convert_ids_to_tokens(ids[:size])
    labels = columns.get("labels")
    own: list[str | None] = []
    if labels is not None and labels.ndim == 1 and task.kind.head in ("token-classification", "causal-lm", "masked-lm"):
        own = [name_of(task, number) for number in labels[:size].tolist()]
    if task.kind.head == "causal-lm":
        own[0] = None  # nothing stands before it that could say what it is
    return Shown(where=where, tokens=tuple(tokens), labels=tuple(own), target=target, padding=len(ids) - size)


def name_of(task: Any, number: int) -> str | None:
    """What a token's label means: a tag, or a token; None for -100, which is not judged."""
    if number == IGNORED:
        return None
    if task.kind.head == "token-classification":
        return str(task.labels[number])
    token: str = task.tokenizer.convert_ids_to_tokens([number])[0]
    return token


def target_of(task: Any, columns: Mapping[str, Tensor]) -> str:
    """What is to be learned of an example as a whole."""
    if "start_positions" in columns:
        first, last = int(columns["start_positions"]), int(columns["end_positions"])
        text = task.tokenizer.decode(columns["input_ids"][first : last + 1])
        return f"tokens {first} to {last}, {text!r}" if last else "no answer in this window"
    labels = columns["labels"]
    if task.kind.head == "seq2seq-lm":
        return f"write {' '.join(written(task.tokenizer.target, labels))}"
    if labels.ndim == 0 and not labels.is_floating_point():
        return f"label {int(labels)} = {task.labels[int(labels)]}"
    if labels.ndim == 0:
        return f"number {float(labels):.6g}"
    if labels.is_floating_point():
        chosen = torch.nonzero(labels).flatten().tolist()
        return "labels " + (", ".join(f"{number} = {task.labels[number]}" for number in chosen) or "none")
    return ""


def written(tokenizer: Tokenizer, labels: Tensor) -> list[str]:
    """The tokens that are to be written."""
    return tokenizer.convert_ids_to_tokens(labels[labels != IGNORED])
