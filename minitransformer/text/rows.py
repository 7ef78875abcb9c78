"""The rows of a batch: texts checked before they are encoded, their length, and how much of each is kept."""

from __future__ import annotations

from typing import Any

from tokenizers import Encoding

from minitransformer.errors import TokenizerError


def as_rows(text: Any, pair: Any = None) -> tuple[list[str], list[str] | None]:
    """The texts and their pairs as lists; one text is a list of one."""
    texts = check_rows(text, "text")
    if pair is None:
        return texts, None
    pairs = check_rows(pair, "pair")
    if isinstance(text, str) != isinstance(pair, str):
        raise TokenizerError("text and pair: got a str and a list, expected two of a kind")
    if len(texts) != len(pairs):
        raise TokenizerError(f"got {len(texts)} texts and {len(pairs)} pairs, expected a pair for each text")
    return texts, pairs


def check_rows(rows: Any, name: str) -> list[str]:
    """One text, or a list or tuple of texts, as a list; refuse what is no text, or no Unicode."""
    if isinstance(rows, str):
        rows = [rows]
    if not isinstance(rows, list | tuple):
        raise TokenizerError(f"{name}: got a {type(rows).__name__}, expected a str or a list of str")
    if not rows:
        raise TokenizerError(f"{name}: got an empty list, expected at least one text")
    for row, text in enumerate(rows):
        if not isinstance(text, str):
            raise TokenizerError(f"{name}, row {row}: got a {type(text).__name__} ({text!r:.40}), expected a str")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"{name}, row {row}: character {error.start} is {text[error.start]!r}, half of a surrogate pair and no "
                "character; try text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            ) from None
    return list(rows)


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of a text and its pair to keep: the longer one is cut until both fit, then both alike."""
    if first + second <= room:
        return first, second
    short = min(first, second, room // 2)
    return (room - short, short) if first > second else (short, room - short)


def kept(encoding: Encoding, max_length: int, side: str) -> list[int]:
    """The positions that stay when an encoding is cut to `max_length`: all special tokens, and what fits of the text.

    Tokens are dropped on that side of each text.
    """
    owners = encoding.sequence_ids  # 0: the text, 1: its pair, None: a special token
    text = [place for place, owner in enumerate(owners) if owner == 0]
    pair = [place for place, owner in enumerate(owners) if owner == 1]
    special = [place for place, owner in enumerate(owners) if owner is None]
    if max_length <= len(special):
        raise TokenizerError(f"max_length {max_length}: {len(special)} special tokens leave no room for text; raise it")
    first, second = longest_first(len(text), len(pair), max_length - len(special))
    if side == "left":
        return sorted(special + text[len(text) - first :] + pair[len(pair) - second :])
    return sorted(special + text[:first] + pair[:second])


def row_limit(max_length: int | None, truncation: bool, padding: bool | str, longest: int | None) -> int | None:
    """The length to cut or to pad rows to; None where neither is asked for. longest: what the model takes."""
    if padding not in (True, False, "max_length"):
        raise TokenizerError(f"padding: got {padding!r}, expected True, False or 'max_length'")
    if truncation not in (True, False):
        raise TokenizerError(f"truncation: got {truncation!r}, expected True or False")
    if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1):
        raise TokenizerError(f"max_length: got {max_length!r}, expected a number from 1 up")
    if not truncation and padding != "max_length":
        if max_length is not None:
            raise TokenizerError(
                f"max_length {max_length}: has no effect alone; add truncation=True or padding='max_length'"
            )
        return None
    limit = max_length or longest
    if limit is None:
        raise TokenizerError(
            "max_length: got None, and the tokenizer's files set no model_max_length; pass max_length="
        )
    return limit
