"""Texts of users (names, labels, paths) as they may stand in a picture or in a page: one line that is only text."""

import html
import re
from unicodedata import east_asian_width

MARKUP = re.compile(r"([\\`*~$&<>\[\]|#]|(?<![^\W_])_|_(?![^\W_]))")


def one_line(text: object) -> str:
    """The text on one line, without what cannot be seen: control characters, marks that turn the writing round."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())


def shorten(text: object, columns: int) -> str:
    """The text on one line, cut to so many columns; a Chinese character fills two."""
    line = one_line(text)
    short = line[: columns + 1]
    if short == line and width(line) <= columns:
        return line
    while width(short) >= columns:
        short = short[:-1]
    return f"{short}…"


def width(line: str) -> int:
    """How many columns a line fills."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in line)


def xml(text: object) -> str:
    """The text as it stands in XML."""
    return html.escape(one_line(text))


def markdown(text: object) -> str:
    """The text as it stands in Markdown, in a table too; not at the start of a line, where it could be a list's."""
    return MARKUP.sub(r"\\\1", one_line(text))
