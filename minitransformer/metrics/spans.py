"""Scores of answers that are a stretch of a text, as SQuAD counts. Needs no library."""

import re
import string
from collections import Counter
from collections.abc import Sequence

from minitransformer.metrics.checks import check_rows

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def spans(predicted: Sequence[str], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match, and F1 of the words in common: for each row that with the best of its right answers.

    `right` has for each row its right answers, none where the text does not answer the question; then "" is right.
    Both are compared as `normalised` gives them. Rajpurkar et al. 2016 and 2018 (SQuAD 1.1 and 2.0).
    """
    check_rows(predicted, right)
    exact, f1 = 0.0, 0.0
    for answer, accepted in zip(predicted, right, strict=True):
        known = [text for text in accepted if normalised(text)] or [""]
        exact += max(normalised(answer) == normalised(text) for text in known)
        f1 += max(word_f1(answer, text) for text in known)
    return {"exact_match": exact / len(right), "f1": f1 / len(right)}


def normalised(text: str) -> str:
    """The text in lower case, without punctuation (ASCII's), articles and superfluous spaces."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def word_f1(answer: str, text: str) -> float:
    """F1 of an answer's words among those of a right one; where either has none, whether both have none."""
    found, wanted = normalised(answer).split(), normalised(text).split()
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted))
