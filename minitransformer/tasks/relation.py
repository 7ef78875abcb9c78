"""Relation classification: how two entities of a text stand to each other. Four tokens mark where they are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from tokenizers import Encoding
from torch import Tensor

from minitransformer.errors import DataError, InputError, TokenizerError
from minitransformer.model import Transformer
from minitransformer.model.heads import SumAndCount
from minitransformer.tasks.classify import Classify, Prediction
from minitransformer.tasks.task import Criterion, Example, Row, label_number
from minitransformer.tasks.texts import text_row
from minitransformer.text import Batch, Tokenizer

MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")
MARKER = re.compile(r"\[(/?E[12])\]|<(/?e[12])>")  # ours, and those of SemEval-2010, task 8
ORDERS = (("E1", "/E1", "E2", "/E2"), ("E2", "/E2", "E1", "/E1"))

Span = tuple[int, int]  # the first character, and the first behind


class Relation:
    """Rows: text, with <e1>…</e1> and <e2>…</e2> (or [E1]…[/E1] and so on) around the two entities; and label.

    Or the text without markers, and columns head and tail, each [start, end] in characters: the first and the second
    entity. The model reads the text with four tokens of their own as markers (Baldini Soares et al. 2019, section 3.2);
    `add_tokens` gives them to a model.
    """

    kind: ClassVar = replace(
        Classify.kind,
        more=("head", "tail"),
        added_tokens=MARKERS,
        example='model.predict(["<e1>Ada</e1> was born in <e2>London</e2>."])',
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_length: int | None,
        criterion: Criterion = Criterion(),  # noqa: B008, it is frozen
    ) -> None:
        unknown = [token for token in MARKERS if tokenizer.backend.token_to_id(token) is None]
        if unknown:
            raise TokenizerError(f"{', '.join(unknown)}: not in the vocabulary; add_tokens gives them to the model")
        self.labels = tuple(labels)
        self.classify = Classify(tokenizer, labels, max_length, criterion)
        self.tokenizer, self.max_length = tokenizer, max_length

    def row(self, given: Any) -> Row:
        """A row of a text with markers, or of columns."""
        if not isinstance(given, str | dict):
            raise InputError(f"got {given!r:.60}, expected a text with <e1>…</e1> and <e2>…</e2>, or a dict of columns")
        return text_row(given)

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each row; its target is the label's number."""
        if not rows:
            return []
        numbers = self.classify.numbers
        wanted = [label_number(numbers, row.name("label"), row.where) if targets else None for row in rows]
        encodings = self.tokenizer.encodings([marked(*entities_of(row)) for row in rows])
        return [self._example(*x) for x in zip(range(len(rows)), rows, encodings, wanted, strict=True)]

    def collate(self, examples: Sequence[Example]) -> Batch:
        """See `Classify.collate`."""
        return self.classify.collate(examples)

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """See `Classify.count`."""
        return self.classify.count(batch)

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Cross-entropy."""
        return self.classify.loss(model, batch)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[tuple[str, float]]:
        """The most probable label of each row, and its probability."""
        return self.classify.decode(model, batch)

    def answers(
        self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[tuple[str, float]]
    ) -> list[Prediction]:
        """The label of each row."""
        return self.classify.answers(rows, examples, decoded)

    def score(self, answers: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """See `Classify.score`."""
        return self.classify.score(answers, rows)

    def _example(self, place: int, row: Row, encoding: Encoding, target: int | None) -> Example:
        stay = kept_around_entities(encoding, marker_places(encoding, row.where), self.max_length)
        if stay is None:
            raise DataError(
                f"{row.where}: its two entities alone have more than the {self.max_length} tokens that are read; "
                "mark fewer words, or raise max_length"
            )
        inputs = {"input_ids": encoding.ids, "token_type_ids": encoding.type_ids}
        inputs = {name: [column[i] for i in stay] for name, column in inputs.items()}
        return Example(place, inputs, target, lost=len(encoding.ids) - len(stay))


def entities_of(row: Row) -> tuple[str, Span, Span]:
    """The text of a row without markers, and where in it the first and the second entity stand."""
    text = row.text("text")
    if ("head" in row or "tail" in row) and len(MARKER.findall(text)) < len(MARKERS):
        head, tail = (given_span(row, name, len(text)) for name in ("head", "tail"))
    else:
        text, head, tail = without_markers(text, row.where)
    head, tail = trimmed(text, head, row.where), trimmed(text, tail, row.where)
    if head[0] < tail[1] and tail[0] < head[1]:
        raise DataError(f"{row.where}: the entities overlap: {text[slice(*head)]!r:.40}, {text[slice(*tail)]!r:.40}")
    return text, head, tail


def given_span(row: Row, name: str, size: int) -> Span:
    """The span in a column: [start, end], in characters."""
    value = row.get(name)
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(type(place) is int for place in value):
        raise DataError(f"{row.where}: {name!r} is {value!r:.60}, expected [start, end] in characters")
    if not 0 <= value[0] < value[1] <= size:
        raise DataError(f"{row.where}: {name!r} is {list(value)}, expected a part of the text's {size} characters")
    return value[0], value[1]


def without_markers(text: str, where: str) -> tuple[str, Span, Span]:
    """A text without the markers in it, and the spans that they marked."""
    found = list(MARKER.finditer(text))
    names = tuple((match[1] or match[2]).upper() for match in found)
    if names not in ORDERS:
        got = " ".join(match[0] for match in found) or "none"
        raise DataError(f"{where}: got the markers {got}; expected <e1>…</e1> and <e2>…</e2>, each once, side by side")
    removed = 0
    places = {}
    for name, match in zip(names, found, strict=True):
        places[name] = match.start() - removed
        removed += len(match[0])
    return MARKER.sub("", text), (places["E1"], places["/E1"]), (places["E2"], places["/E2"])


def trimmed(text: str, span: Span, where: str) -> Span:
    """The span without white space at its ends; a DataError if there is nothing else."""
    inside = text[slice(*span)]
    if not inside.strip():
        raise DataError(f"{where}: an entity is {inside!r}, expected a text that is not empty")
    return span[0] + len(inside) - len(inside.lstrip()), span[1] - len(inside) + len(inside.rstrip())


def marked(text: str, head: Span, tail: Span) -> str:
    """The text with [E1], [/E1], [E2] and [/E2] around the two spans.

    A space before an entity goes into its markers: "the[E1] cat[/E1] sat" has the tokens of "the cat sat", also where
    a token begins with a space.
    """
    for (start, end), opening, closing in sorted([(head, *MARKERS[:2]), (tail, *MARKERS[2:])], reverse=True):
        before = text[:start].rstrip()
        space = " " if len(before) < start else ""
        after = re.sub(r"^\s+", " ", text[end:])  # "<e1> cat </e1> sat" has two spaces there
        text = f"{before}{opening}{space}{text[start:end]}{closing}{after}"
    return text


def marker_places(encoding: Encoding, where: str) -> list[Span]:
    """The tokens that mark each entity, as the text has them: the opening one's place and the closing one's."""
    places: list[int] = []
    for token in MARKERS:
        found = [place for place, text in enumerate(encoding.tokens) if text == token]
        if len(found) != 1:
            raise DataError(f"{where}: {token} stands there {len(found)} times, expected once")
        places += found
    return sorted([(places[0], places[1]), (places[2], places[3])])


def kept_around_entities(encoding: Encoding, entities: Sequence[Span], max_length: int | None) -> list[int] | None:
    """The places of the tokens that stay; None if the entities alone, with their markers, are too long.

    What is too long loses the text before the first and behind the second entity, from its ends, then that between.
    """
    if max_length is None or len(encoding.ids) <= max_length:
        return list(range(len(encoding.ids)))
    (start, first), (second, end) = entities
    owners = encoding.sequence_ids  # None: a special token that is no marker

    def dispensable(place: int) -> tuple[int, int]:
        if owners[place] is None or start <= place <= first or second <= place <= end:
            return 0, 0
        if first < place < second:
            return 1, min(place - first, second - place)
        return 2, max(start - place, place - end)

    ranked = sorted(range(len(owners)), key=dispensable)
    return None if dispensable(ranked[max_length]) == (0, 0) else sorted(ranked[:max_length])
