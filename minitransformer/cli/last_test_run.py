"""What the tests last found on this machine for each family: a small file in the user's cache, written by them."""

import os
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from minitransformer.errors import CorruptFileError, MiniTransformerError
from minitransformer.storage.files import parse_object, read_json_bytes

MAX_BYTES = 100_000  # some 200 bytes for each family
VERSION = re.compile(r"[\w.+-]{1,40}", re.ASCII)  # it is printed: nothing that a terminal obeys


@dataclass(frozen=True, kw_only=True)
class Result:
    """How many heads of a family the tests compared with transformers, and how many gave the same numbers."""

    ran: int
    passed: int
    largest_difference: float | None  # None if a head failed
    when: datetime
    torch: str  # the versions
    transformers: str

    @property
    def equal(self) -> bool:
        """Whether all that ran gave the same numbers."""
        return self.passed == self.ran

    def to_dict(self) -> dict[str, Any]:
        """As data for JSON."""
        return {**asdict(self), "when": self.when.isoformat()}


def path() -> Path:
    """Where the file is: in XDG_CACHE_HOME, by default ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    cache = home if os.path.isabs(home) else os.path.expanduser("~/.cache")  # a relative one does not count
    return Path(cache) / "minitransformer" / "parity.json"


def read() -> dict[str, Result]:
    """Each family's result, as far as there is one. CorruptFileError if the file is none that the tests write."""
    if not os.path.lexists(path()):
        return {}
    try:
        families = parse_object(read_json_bytes(path()), MAX_BYTES)["families"]
        return {family: _result(found) for family, found in families.items()}
    except (MiniTransformerError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"{path()}: not what the tests write; remove it and run them again") from error


def _result(found: dict[str, Any]) -> Result:
    """One family's entry, checked: anybody may have written it."""
    result = Result(**{**found, "when": datetime.fromisoformat(found["when"])})
    difference = result.largest_difference
    checks = (
        type(result.ran) is int and type(result.passed) is int and 0 <= result.passed <= result.ran < 1000,
        difference is None or (type(difference) is float and difference >= 0),
        VERSION.fullmatch(result.torch) and VERSION.fullmatch(result.transformers),
    )
    if not all(checks):
        raise ValueError("an entry that no test run writes")
    return result
