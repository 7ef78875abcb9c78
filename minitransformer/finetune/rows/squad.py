"""SQuAD's files of questions (1.1 and 2.0), and the check that every answer stands where it is said to stand."""

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


def check_answers(row: Row) -> None:
    """Bring a row's answers to [{"text", "answer_start"}, ...]. A DataError if one is not in the context there."""
    answers = row["answers"]
    if isinstance(answers, dict):  # {"text": [...], "answer_start": [...]}, as the library datasets gives them
        texts, starts = answers.get("text"), answers.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise DataError(f"{row.where}: 'answers' is {quote(answers)}, expected as many texts as starts")
        answers = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(answers, list):
        raise DataError(f"{row.where}: 'answers' is {quote(answers)}, expected a list")
    row["answers"] = [_checked(answer, row) for answer in answers]


def _checked(answer: Any, row: Row) -> dict[str, Any]:
    text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
    if not isinstance(text, str) or not text or not isinstance(start, int) or isinstance(start, bool):
        raise DataError(f"{row.where}: an answer is {quote(answer)}, expected its 'text' and 'answer_start'")
    context = row.text("context")
    found = context[start : start + len(text)] if start >= 0 else ""
    if found != text:
        place = f"; it begins at {context.index(text)}" if text in context else ", nor elsewhere in it"
        raise DataError(
            f"{row.where}: the answer {quote(text)} is not at character {start} of the context, "
            f"where {quote(found)} stands{place}"
        )
    return {"text": text, "answer_start": start}
