"""How long rows are in tokens, and how much of them is cut off."""

import copy
import math
import sys
from collections.abc import Sequence
from typing import Any

from minitransformer.finetune.check.report import Lengths
from minitransformer.model.heads import IGNORED
from minitransformer.tasks.dialogue import Dialogue
from minitransformer.tasks.language import CausalLM, MaskedLM
from minitransformer.tasks.seq2seq import Seq2Seq
from minitransformer.tasks.span import NOWHERE, Span
from minitransformer.tasks.tag import Tag
from minitransformer.tasks.task import Example, Row, Task
from minitransformer.text import Tokenizer


def without_limits(task: Task) -> Task:
    """The same task, which cuts nothing off."""
    free: Any = copy.copy(task)
    for name in ("max_length", "max_target_length"):
        if hasattr(free, name):
            setattr(free, name, sys.maxsize)
    return free


def lengths(tokenizer: Tokenizer, task: Task, rows: Sequence[Row], examples: Sequence[Example]) -> Lengths:
    """What the examples of these rows have of them, beside what they have in full."""
    whole = without_limits(task).encode(rows)  # one example for each row
    sizes = sorted(len(max(read_of(example), key=len)) for example in whole)
    judged = sum(judged_of(task, example) for example in whole)
    kept = sum(judged_of(task, example) for example in examples)
    if isinstance(task, Span):  # windows overlap, and several may have the answer
        kept = len({example.row for example in examples if judged_of(task, example)})
    if isinstance(task, Tag):  # there are words that have no token, however much is read
        judged = sum(len(row["words"]) for row in rows)
    return Lengths(
        tokens=sum(len(ids) for example in whole for ids in texts_of(example)),
        mean=sum(sizes) / len(sizes),
        percentile_95=sizes[math.ceil(0.95 * len(sizes)) - 1],
        longest=sizes[-1],
        longest_target=max(example.written for example in whole),
        rows_cut=len({example.row for example in examples if example.lost}),
        tokens_lost=sum(example.lost for example in examples),
        windows=len(examples),
        judged=judged,
        judged_lost=judged - kept,
        unknown=sum(unknown_tokens(tokenizer, example) for example in whole),
    )


def read_of(example: Example) -> list[Sequence[int]]:
    """The token ids that an encoder (or a decoder alone) reads: one text, or one for each choice."""
    if isinstance(example.extra, list):
        return [one["input_ids"] for one in example.extra]
    return [example.inputs["input_ids"]]


def texts_of(example: Example) -> list[Sequence[int]]:
    """The same, and what is to be written for it."""
    return read_of(example) + ([example.target] if example.written else [])


def judged_of(task: Task, example: Example) -> int:
    """How much there is to learn of an example."""
    match task:
        case CausalLM():
            return len(example) - 1
        case MaskedLM():
            return sum(number not in task.special for number in example.inputs["input_ids"])
        case Dialogue():
            return sum(label != IGNORED for label in example.target[1:])
        case Tag():
            return sum(label != IGNORED for label in example.target)
        case Seq2Seq():
            return len(example.target)
        case Span():
            return int(example.target != NOWHERE)
    return 1


def unknown_tokens(tokenizer: Tokenizer, example: Example) -> int:
    """How many tokens stand for what the vocabulary does not have."""
    number = unknown_id(tokenizer)
    return 0 if number is None else sum(ids.count(number) for ids in map(list, read_of(example)))


def only_unknown(tokenizer: Tokenizer, example: Example) -> bool:
    """Whether a text has no token that means anything."""
    number = unknown_id(tokenizer)
    special = {tokenizer.backend.token_to_id(token) for token in tokenizer.special.values()} - {number}
    return number is not None and all(set(ids) - special == {number} for ids in read_of(example))


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id of what is not in the vocabulary; None where all texts are (GPT-2 calls its end token so)."""
    others = {token for role, token in tokenizer.special.items() if role != "unk_token"}
    return None if tokenizer.special.get("unk_token") in others else tokenizer.unk_token_id
