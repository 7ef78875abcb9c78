"""Rows from plain text: a document, a text on each line, or two files whose lines belong together."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from minitransformer.errors import DataError
from minitransformer.finetune.rows.lines import lines, plain_lines
from minitransformer.tasks import Row
from minitransformer.tasks.words import find_words


def document(path: Path) -> Iterator[Row]:
    """The whole file as one text."""
    text = "".join(line for _, line in lines(path)).replace("\r\n", "\n")
    if text.strip():
        yield Row(text=text, where=str(path))


def text_lines(path: Path, column: str) -> Iterator[Row]:
    """A row for each line that is not blank."""
    for number, line in plain_lines(path):
        if line.strip():
            yield Row({column: line}, where=f"{path}, line {number}")


def word_lines(path: Path) -> Iterator[Row]:
    """The words of each line that is not blank, as they are found in any text whose words are to be tagged."""
    for row in text_lines(path, "text"):
        row["words"], row["places"] = find_words(row["text"])
        yield row


def parallel(sources: Path, targets: Path) -> Iterator[Row]:
    """A row for each line of two files: line i of the one belongs to line i of the other; blank in both: no row."""
    for pair in zip_longest(plain_lines(sources), plain_lines(targets)):
        if pair[0] is None or pair[1] is None:
            counts = [f"{path} has {sum(1 for _ in lines(path))}" for path in (sources, targets)]
            raise DataError(f"parallel text: {' lines, '.join(counts)}; expected as many in both")
        (number, source), (_, target) = pair
        if source.strip() or target.strip():
            yield Row(source=source, target=target, where=f"{sources}, line {number}")
