"""A document in three parts, where it is all that there is: to train on, to choose by (dev), to judge by (test)."""

from itertools import pairwise

from minitransformer.errors import DataError
from minitransformer.tasks.task import Row


def cut_document(row: Row, *, dev: float, test: float) -> tuple[list[Row], list[Row], list[Row]]:
    """The document's beginning to train on, what follows as dev, its end as test: shares of its characters.

    Contiguous, since a text that is learned must not surround the one that judges. Each cut is where a line ends, if
    one does so near by, and else between two characters.
    """
    text, size = row.text("text"), len(row["text"])
    if not 0 < dev + test < 1:
        raise DataError(f"{row.where}: dev={dev} and test={test} leave nothing to train on; expected less than 1")
    slack = round(min(share for share in (dev, test, 1 - dev - test) if share) * size) // 4
    ends = [line_near(text, round((1 - share) * size), slack) if share else size for share in (dev + test, test)]
    parts = [_part(row, start, end) for start, end in pairwise([0, *ends, size])]
    for name, share, part in zip(("train", "dev", "test"), (1, dev, test), parts, strict=True):
        if share and not part:
            raise DataError(
                f"{row.where}: a text of {size} characters is too short to cut off dev={dev} and test={test} "
                f"(nothing is left for {name}); give files of their own"
            )
    return parts[0], parts[1], parts[2]


def line_near(text: str, place: int, slack: int) -> int:
    """Where the line begins that is nearest to a place; the place itself, where none begins within `slack`."""
    before = text.rfind("\n", max(0, place - slack), place) + 1
    after = text.find("\n", place, place + slack) + 1
    return min((found for found in (before, after) if found), key=lambda found: abs(found - place), default=place)


def _part(row: Row, start: int, end: int) -> list[Row]:
    """The row of a part of a document; none of a part that is blank."""
    text = row["text"][start:end]
    where = f"{row.where}, characters {start + 1:,} to {end:,}"
    return [Row({**row, "text": text}, where=where)] if text.strip() else []
