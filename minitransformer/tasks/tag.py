"""Token classification: one tag for each word of a sentence. With B- and I- before their names, tags mark entities."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from minitransformer.errors import DataError, InputError
from minitransformer.metrics import classification, entities
from minitransformer.model import Transformer
from minitransformer.model.heads import IGNORED, SumAndCount
from minitransformer.tasks.task import (
    Criterion,
    Example,
    Kind,
    Row,
    columns_row,
    label_number,
    logits_of,
    pad,
    token_labels,
)
from minitransformer.tasks.words import NO_WORD, find_words, sentence_examples
from minitransformer.text import Batch, Tokenizer
from minitransformer.text.rows import check_rows

OUTSIDE = "O"  # the tag of a word that is in no entity
ENTITY_TAG = re.compile(r"O|[BIES]-.+")  # begin, inside, and in some schemes: end, single


@dataclass(frozen=True)
class Entity:
    """A run of words that is one entity."""

    label: str
    text: str
    start_word: int
    end_word: int  # the first word behind it
    score: float  # the mean probability of its words' tags
    start: int | None = None  # its first character, where a text was given
    end: int | None = None  # the first character behind it


@dataclass(frozen=True)
class Tagged:
    """A sentence's words, the tag of each, and the entities that the tags mark."""

    words: list[str]
    tags: list[str]
    entities: list[Entity]

    def __str__(self) -> str:
        found = ", ".join(f"{entity.text} ({entity.label})" for entity in self.entities)
        return f"{' '.join(self.words)}  ->  {found or '(none)'}"


def tags_of(row: Row) -> list[str]:
    """The tags of a row; a DataError unless there is one for each word."""
    words, tags = row.texts("words"), row.texts("tags")
    if len(words) != len(tags):
        raise DataError(f"{row.where}: {len(words)} words and {len(tags)} tags, expected a tag for each word")
    return tags


def tag_set(rows: Sequence[Row]) -> tuple[str, ...]:
    """The tags to learn. Of entities: O, then by type B- and I-, even where one never occurs; of others, sorted."""
    found = {tag for row in rows for tag in tags_of(row)}
    if len(found) < 2:
        raise DataError(
            f"{rows[0].where}: all words of {len(rows)} rows have the tag {next(iter(found))!r}; nothing to tell apart"
        )
    if len(found) > 1000 or max(map(len, found)) > 1000:
        raise DataError(f"{rows[0].where}: {len(found)} different tags in {len(rows)} rows; is this the right column?")
    strange = {tag for tag in found if not ENTITY_TAG.fullmatch(tag)}
    of_entities = all(ENTITY_TAG.fullmatch(tag.strip().upper()) for tag in found)
    if strange and (of_entities or any(tag.startswith("B-") for tag in found)):  # one would make words of all entities
        row, tag = next((row, tag) for row in rows for tag in tags_of(row) if tag in strange)
        raise DataError(
            f"{row.where}: the tag {tag!r} is neither O nor B-, I-, E- or S- and a type, as those of entities are; "
            f"correct it (of other schemes: I for M, E for L, S for U)"
        )
    if strange:
        return tuple(sorted(found))
    inside = found - {OUTSIDE}
    prefixes = [prefix for prefix in "BIES" if prefix in "BI" or prefix in {tag[0] for tag in inside}]
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in sorted({tag[2:] for tag in inside}) for prefix in prefixes))


def marks_entities(tags: Sequence[str] | set[str]) -> bool:
    """Whether these are tags of entities: B-, I- and so on before the type, or O."""
    return all(ENTITY_TAG.fullmatch(tag) for tag in tags)


class Tag:
    """Rows: words, a list of texts, and tags, one for each word.

    A word's tag is learned and read at its first token. A sentence too long for the model is read in windows, which
    share up to `stride` tokens; each word is judged in one of them, where more is read around it.
    """

    kind: ClassVar = Kind(
        head="token-classification",
        metric="f1",
        row_metric="accuracy",
        inputs=("words",),
        targets=("tags",),
        labels_in=tags_of,
        labels_of=tag_set,
        options=("label_smoothing", "class_weights", "stride"),
        learned="words",
        pipeline="token-classification",
        example='model.predict(["Ada was born in London."])',
    )

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[str],
        max_length: int | None,
        criterion: Criterion = Criterion(),  # noqa: B008, it is frozen
        *,
        stride: int = 32,
    ) -> None:
        if stride < 0:
            raise InputError(f"stride: got {stride}, expected 0 or more")
        self.tokenizer, self.labels, self.max_length, self.criterion = tokenizer, tuple(labels), max_length, criterion
        self.numbers = {label: i for i, label in enumerate(labels)}
        self.stride = stride
        self.marks_entities = marks_entities(labels)
        self.default = OUTSIDE if OUTSIDE in self.numbers else self.labels[0]  # of a word that has no token

    def row(self, given: Any) -> Row:
        """A row of a text, whose words are found here; of a list of words; or of columns."""
        if isinstance(given, str):
            return Row(words=find_words(given)[0], text=given, where="a text")
        if isinstance(given, list | tuple):
            return Row(words=list(given), where="a list of words")
        return columns_row(given, "a text, a list of words")

    def encode(self, rows: Sequence[Row], *, targets: bool = True) -> list[Example]:
        """An example for each window of each row; its target is a label for each token, -100 where none is judged."""
        sentences = [words_of(row) for row in rows]
        wanted = [self._label_numbers(row) for row in rows] if targets else []
        examples = list(sentence_examples(self.tokenizer, sentences, self.max_length, self.stride))
        return [replace(x, target=targets_of(x, wanted[x.row])) for x in examples] if targets else examples

    def collate(self, examples: Sequence[Example]) -> Batch:
        """input_ids and so on int [B T]; labels int [B T]."""
        batch = pad(self.tokenizer, examples)
        if examples[0].target is not None:
            batch["labels"] = token_labels(examples, batch["input_ids"].shape[1])
        return batch

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The number of words that are judged, or the sum of their labels' weights."""
        return self.criterion.count(batch["labels"])

    def loss(self, model: Transformer, batch: Mapping[str, Tensor]) -> SumAndCount:
        """Cross-entropy."""
        return model.loss(batch, self.criterion)

    def decode(self, model: Transformer, batch: Mapping[str, Tensor]) -> list[list[tuple[str, float]]]:
        """The most probable label of each token, and its probability."""
        logits = logits_of(model, batch)  # [B T labels]
        scores, best = torch.softmax(logits.float(), -1).max(-1)  # [B T]
        return [
            [(self.labels[number], score) for number, score in zip(*row, strict=True)]
            for row in zip(best.tolist(), scores.tolist(), strict=True)
        ]

    def answers(
        self, rows: Sequence[Row], examples: Sequence[Example], decoded: Sequence[Sequence[tuple[str, float]]]
    ) -> list[Tagged]:
        """The tags of each row's words, put together from its windows."""
        found = [[(self.default, 0.0)] * len(row["words"]) for row in rows]
        for example, tokens in zip(examples, decoded, strict=True):
            for token, word in enumerate(example.inputs["words"]):
                if word != NO_WORD:
                    found[example.row][word] = tokens[token]
        return [self._answer(row, tagged) for row, tagged in zip(rows, found, strict=True)]

    def score(self, answers: Sequence[Tagged], rows: Sequence[Row]) -> dict[str, float]:
        """Precision, recall and F1 of whole entities. Of tags that mark none, each word's is judged: F1 is accuracy."""
        predicted, right = [answer.tags for answer in answers], [tags_of(row) for row in rows]
        if self.marks_entities:
            return entities(predicted, right)
        flat = [tag for tags in predicted for tag in tags], [tag for tags in right for tag in tags]
        scores = classification(*flat, self.labels)
        return {**scores, "f1": scores["accuracy"]}  # where each word has one tag, precision and recall are that, too

    def _label_numbers(self, row: Row) -> list[int]:
        return [label_number(self.numbers, tag, row.where) for tag in tags_of(row)]

    def _answer(self, row: Row, tagged: Sequence[tuple[str, float]]) -> Tagged:
        tags, scores = [tag for tag, _ in tagged], [score for _, score in tagged]
        return Tagged(row["words"], tags, entities_in(row, tags, scores) if self.marks_entities else [])


def words_of(row: Row) -> list[str]:
    """The words of a row."""
    return check_rows(row.texts("words"), f"{row.where}, 'words'")


def targets_of(example: Example, numbers: Sequence[int]) -> list[int]:
    """The label of each token of an example, from those of the row's words."""
    return [IGNORED if word == NO_WORD else numbers[word] for word in example.inputs["words"]]


def entity_spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The type of each entity, its first word and the first behind it, by the rules of CoNLL's evaluation script.

    B- and S- begin an entity, and so does an I- or E- that goes on with none of its type.
    """
    spans: list[tuple[str, int, int]] = []
    going = None  # the type that the next word may go on with
    for place, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if tag == OUTSIDE:
            going = None
            continue
        if prefix in "IE" and going == kind:
            spans[-1] = (kind, spans[-1][1], place + 1)
        else:
            spans.append((kind, place, place + 1))
        going = None if prefix in "ES" else kind
    return spans


def entities_in(row: Row, tags: Sequence[str], scores: Sequence[float]) -> list[Entity]:
    """The entities that the tags mark; with their characters, where the row has a text that its words come from."""
    words, places = find_words(row["text"]) if isinstance(row.get("text"), str) else ([], [])
    found = []
    for label, start, end in entity_spans(tags):
        score = sum(scores[start:end]) / (end - start)
        if words == row["words"]:
            first, last = places[start][0], places[end - 1][1]
            found.append(Entity(label, row["text"][first:last], start, end, score, first, last))
        else:
            found.append(Entity(label, " ".join(row["words"][start:end]), start, end, score))
    return found
