"""Extractive question answering: the part of a text, a span of it, that answers a question.

A context that is too long to be read at once is read in windows that overlap. Devlin et al. 2018, "BERT", 4.2 and 4.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from tokenizers import Encoding
from torch import Tensor

from minitransformer.errors import DataError, InputError
from minitransformer.metrics import spans
from minitransformer.model import Transformer
from minitransformer.model.heads import SumAndCount
from minitransformer.tasks.task import Example, Kind, Row, columns_row, pad
from minitransformer.text import Batch, Tokenizer

TARGETS = ("start_positions", "end_positions")
NOWHERE = (0, 0)  # the target where the answer is not in the window: its first token, [CLS] in BERT


@dataclass(frozen=True)
class Answer:
    """A question, and the part of its context that a model takes for the answer; "" where it takes none."""

    question: str
    text: str
    score: float  # the probability of its first token times that of its last, in the window where it was found
    start: int  # of the text in the context, in characters
    end: int

    def __str__(self) -> str:
        return f"{self.text or '(no answer)'}  {self.score:6.1%}  {self.question}"


class Window(NamedTuple):
    """Where an example's part of the context stands."""

    first: int  # the place of its first token
    offsets: Tensor  # int [tokens 2], where in the context, in characters, each token begins and ends


class Found(NamedTuple):
    """A span that may be the answer."""

    logits: float  # of its first token as the start and its last as the end, added
    probability: float
    start: int
    end: int


class Span:
    """Rows: question, context, and answers: a list of {text, answer_start}, empty where the context has no answer.

    `stride`: how many tokens of the context a window shares with the one before. `longest`: the tokens of an answer, at
    most. `may_be_empty`: the answer may be none, as a model can say that has learned from questions without an answer.
    """

    kind: ClassVar = Kind(
        head="question-answering",
        metric="f1",
        row_metric="f1",
        inputs=("question", "context"),
        targets=("answers",),
        more=("id",),
        options=("stride",),
        usual_length=384,
        learned="answers",
        pipeline="question-answering",
        example='model.predict([("Who?", "It was Ada.")])',
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int = 384,
        *,
        stride: int = 128,
        longest: int = 30,
        may_be_empty: bool = False,
    ) -> None:
        if stride < 0 or longest < 1:
            raise InputError(f"stride, longest: got {stride} and {longest}, expected 0 or more, and 1 or more")
        self.tokenizer, self.max_length, self.stride = tokenizer, max_length, stride
        self.longest, self.may_be_empty = longest, may_be_empty

    def row(self, given: Any) -> Row:
        """A row of a question and its context (a tuple), or of columns."""
        if isinstance(given, tuple) and len(given) == 2:
            return Row(question=given[0], context=given[1], where="a question and its context")
        return columns_row(given, "a tuple of a question and its context")

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each window; its target is the places of the answer's first and last token in it."""
        found = []
        for start in range(0, len(rows), 1000):  # many at once are fast, but the encodings of all would fill the memory
            part = rows[start : start + 1000]
            pairs = [row.text("question") for row in part], [row.text("context") for row in part]
            for place, encoding in enumerate(self.tokenizer.encodings(*pairs), start):
                found += self._windows(place, rows[place], encoding, targets)
        return found

    def _windows(self, place: int, row: Row, encoding: Encoding, targets: bool) -> list[Example]:
        """The examples of one row. The question is in each of them in full."""
        ids, types, owners = encoding.ids, encoding.type_ids, encoding.sequence_ids
        first, count = owners.index(1) if 1 in owners else 0, owners.count(1)  # of the context's tokens
        if not count:
            raise DataError(f"{row.where}: the tokenizer finds no token in 'context'")
        room = self.max_length - (len(ids) - count)
        if room < 1:
            raise DataError(f"{row.where}: 'question' leaves no room for 'context' in {self.max_length} tokens; cut it")
        offsets = torch.tensor(encoding.offsets[first : first + count], dtype=torch.int32)  # [tokens 2]
        answer = answer_tokens(row, offsets) if targets else None
        examples = []
        for part in windows(count, room, self.stride):
            start, end = first + part.start, first + part.stop
            inputs = {
                "input_ids": ids[:first] + ids[start:end] + ids[first + count :],
                "token_type_ids": types[:first] + types[start:end] + types[first + count :],
            }
            target = NOWHERE if targets else None
            if answer is not None and answer[0] in part and answer[1] in part:
                target = (first + answer[0] - part.start, first + answer[1] - part.start)
            window = Window(first, offsets[part.start : part.stop])
            examples.append(Example(place, inputs, target, extra=window))
        return examples

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids and so on int [B T]; start_positions and end_positions int [B]."""
        batch = pad(self.tokenizer, examples)
        if examples[0].target is not None:
            places = torch.tensor([example.target for example in examples])  # [B 2]
            batch.update(zip(TARGETS, places.unbind(1), strict=True))
        return batch

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of places that are to be found: two in each window."""
        return torch.tensor(2 * len(batch["start_positions"]))

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Cross-entropy over the places of a window, of the start and of the end."""
        return model.loss(batch)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The logits of each window: of being the start, and of being the end, [T] each."""
        output = model(**{name: x for name, x in batch.items() if name not in TARGETS})
        starts, ends = output.start_logits.float().cpu(), output.end_logits.float().cpu()  # [B T]
        return list(zip(starts, ends, strict=True))

    def answers(
        self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[tuple[Tensor, Tensor]]
    ) -> list[Answer]:
        """The best span of each row, over all of its windows."""
        full: list[list[Found]] = [[] for _ in rows]
        empty: list[list[Found]] = [[] for _ in rows]
        for example, (start, end) in zip(examples, decoded, strict=True):
            start, end = start[: len(example)], end[: len(example)]  # without padding
            full[example.row].append(best_span(example.extra, start, end, self.longest))
            empty[example.row].append(Found(float(start[0] + end[0]), probability(start, end, *NOWHERE), 0, 0))
        return [self._answer(row, *found) for row, *found in zip(rows, full, empty, strict=True)]

    def _answer(self, row: Row, full: Sequence[Found], empty: Sequence[Found]) -> Answer:
        best = max(full, key=lambda found: found.logits)
        none = min(empty, key=lambda found: found.logits)  # no window has it only if the surest one says so
        if self.may_be_empty and none.logits > best.logits:
            best = none
        text = row["context"][best.start : best.end]
        start = best.start + len(text) - len(text.lstrip())  # some tokens begin with a space
        return Answer(row["question"], text.strip(), best.probability, start, start + len(text.strip()))

    def score(self, answers: Sequence[Answer], rows: Sequence[Row]) -> dict[str, float]:
        """Exact match and F1 of the words: see `metrics.spans`."""
        return spans([answer.text for answer in answers], [[text for text, _ in right_answers(row)] for row in rows])


def windows(count: int, room: int, stride: int) -> list[range]:
    """The parts of `count` tokens that are read at once, `room` each; `stride` of them are in the part before, too.

    Where a long question leaves no room for that, half of them.
    """
    step = room - (stride if stride < room else room // 2)
    starts = range(0, max(1, count - room + step), step)
    return [range(start, min(start + room, count)) for start in starts]


def right_answers(row: Row) -> list[tuple[str, int]]:
    """Each answer in a row, and where in the context it begins, in characters; a DataError if it is not there."""
    given, found = row.get("answers"), []
    if not isinstance(given, list | tuple):
        shown = f"{given!r:.60}" if "answers" in row else f"not among the columns {', '.join(row) or '(none)'}"
        raise DataError(f"{row.where}: 'answers' is {shown}, expected a list of {{text, answer_start}}, [] for none")
    for answer in given:
        text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
        if not isinstance(text, str) or not text.strip() or type(start) is not int:
            raise DataError(f"{row.where}: 'answers' has {answer!r:.60}, expected {{text, answer_start}}")
        context = row.text("context")
        there = context[start : start + len(text)] if start >= 0 else ""
        if there != text:
            place = f"it begins at {context.index(text)}" if text in context else "and it is nowhere in it"
            raise DataError(
                f"{row.where}: 'answers' has {text!r:.60} at {start}, where 'context' has {there!r:.60}; {place}"
            )
        found.append((text, start))
    return found


def answer_tokens(row: Row, offsets: Tensor) -> tuple[int, int] | None:
    """The first and the last of the context's tokens that share a character with the row's first answer."""
    answers = right_answers(row)
    if not answers:
        return None
    text, start = answers[0]
    end = start + len(text.rstrip())
    start += len(text) - len(text.lstrip())
    shared = ((offsets[:, 1] > start) & (offsets[:, 0] < end)).nonzero().flatten().tolist()
    if not shared:
        raise DataError(f"{row.where}: the tokenizer finds no token in the answer {text!r:.60}")
    return shared[0], shared[-1]


def best_span(window: Window, start: Tensor, end: Tensor, longest: int) -> Found:
    """The span of a window's context with the largest logits. start, end [T]."""
    first, count = window.first, len(window.offsets)
    inside = slice(first, first + count)
    scores = start[inside, None] + end[inside]  # [count count], from each token to each
    allowed = torch.ones_like(scores, dtype=torch.bool).triu().tril(longest - 1)  # the end not before the start
    best = int(scores.masked_fill(~allowed, -torch.inf).argmax())
    i, j = divmod(best, count)
    found = probability(start, end, first + i, first + j)
    return Found(float(scores[i, j]), found, int(window.offsets[i, 0]), int(window.offsets[j, 1]))


def probability(start: Tensor, end: Tensor, first: int, last: int) -> float:
    """That the answer goes from token `first` to token `last`: softmax(start)[first] · softmax(end)[last]."""
    return float((start.log_softmax(0)[first] + end.log_softmax(0)[last]).exp())
