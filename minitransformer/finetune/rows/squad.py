"""SQuAD's files of questions (1.1 and 2.0)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minitransformer.errors import DataError
from minitransformer.storage.files import quote
from minitransformer.tasks import Row


def is_squad(value: Any) -> bool:
    """Whether a JSON value is laid out as SQuAD: {"data": [{"paragraphs": [...]}, ...]}."""
    articles = value.get("data") if isinstance(value, dict) else None
    return isinstance(articles, list) and all(isinstance(one, dict) and "paragraphs" in one for one in articles)


def questions(value: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The questions of a SQuAD file, with their context; a question that is_impossible has no answers."""
    number = 0
    for article in value["data"]:
        for paragraph in _objects(article["paragraphs"], f"{path}, paragraphs"):
            for question in _objects(paragraph.get("qas"), f"{path}, qas"):
                number += 1
                record = {"context": paragraph.get("context"), **question}
                if question.get("is_impossible") is True:
                    record["answers"] = []
                yield f"{path}, question {question.get('id', number)}", record


def _objects(value: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise DataError(f"{where}: got {quote(value)}, expected a list of objects, as SQuAD has")
    return value


def shape_answers(row: Row) -> None:
    """Bring a row's answers to [{"text", "answer_start"}, ...] where they are laid out as the library datasets does."""
    answers = row["answers"]
    if isinstance(answers, dict):  # {"text": [...], "answer_start": [...]}
        texts, starts = answers.get("text"), answers.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise DataError(f"{row.where}: 'answers' is {quote(answers)}, expected as many texts as starts")
        row["answers"] = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
