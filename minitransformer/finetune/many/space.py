"""What a search tries: for each field of a recipe a list of values, or a range. Imports no torch."""

import csv
import itertools
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import NoneType
from typing import Any, get_args, get_type_hints

from minitransformer.errors import ConfigError
from minitransformer.finetune.recipe import Recipe

PAPERS = "learning_rate=2e-5,3e-5,5e-5 batch_size=16,32 epochs=2,3,4"  # Devlin et al. 2019, appendix A.3
PART = re.compile(r'\s*(\w+)=((?:"[^"]*"|[^\s"])+)(?=\s|$)')
ENDS = re.compile(r"([^:]+?)\.\.([^:]+?)(:log)?")


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, or all whole ones; `log`: as many below 1e-5 as above, from 1e-6 to 1e-4."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def draw(self, generator: random.Random) -> float:
        """One of them."""
        if self.log:
            return self.rounded(math.exp(generator.uniform(math.log(self.low), math.log(self.high))))
        return self.rounded(generator.randint(int(self.low), int(self.high)) if self.whole else
                            generator.uniform(self.low, self.high))  # fmt: skip

    def rounded(self, x: float) -> float:
        """The number to three digits, which people can read; a whole one where the range has no others."""
        return min(self.high, max(self.low, round(x) if self.whole else float(f"{x:.3g}")))


Space = dict[str, tuple[Any, ...] | Range]


def make_space(given: str | Mapping[str, Sequence[Any] | Range], recipe: Recipe) -> Space:
    """The space that is meant, checked value by value.

    In words, field=values: "epochs=2,3,4 train=head,lora", or a range, "learning_rate=1e-6..1e-4:log"; one between
    whole numbers, "epochs=1..5", has whole numbers. A value with commas or spaces stands in quotes,
    lora_targets="q,v","q,k,v,o". As data: {"epochs": [2, 3, 4], "learning_rate": Range(1e-6, 1e-4, log=True)}.
    """
    space = parse(given) if isinstance(given, str) else dict(_named(given.items()))
    if not space:
        raise ConfigError(f"space: it is empty; try {PAPERS!r}")
    return {name: _checked(name, values, recipe) for name, values in space.items()}


def parse(text: str) -> dict[str, Any]:
    """The fields of a space in words, and their values."""
    pairs, place = [], 0
    while text[place:].strip():
        part = PART.match(text, place)
        if part is None:
            raise ConfigError(
                f"space: cannot read {text[place:].strip()!r:.60}; expected field=value,value or field=low..high"
            )
        pairs.append((part[1], part[2]))
        place = part.end()
    return {name: _values(name, written) for name, written in _named(pairs)}


def grid(space: Space) -> list[dict[str, Any]]:
    """Each value with each. A ConfigError for a range that has no end of values."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*map(_listed, space, space.values()))]


def drawn(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """So many at random, no two alike: fewer, where there are no more. The first ones are the same for any count."""
    generator, found = random.Random(seed), list[dict[str, Any]]()
    for _ in range(100 * count):
        values = {
            name: each.draw(generator) if isinstance(each, Range) else generator.choice(each)
            for name, each in space.items()
        }
        if values not in found:
            found.append(values)
        if len(found) == count:
            break
    return found


def _listed(name: str, values: tuple[Any, ...] | Range) -> Sequence[Any]:
    if not isinstance(values, Range):
        return values
    if not values.whole or values.log:
        raise ConfigError(f"space: {name} is a range, of which a grid has no end; list values, or take random or tpe")
    return range(int(values.low), int(values.high) + 1)


def _named(pairs: Any) -> list[tuple[str, Any]]:
    """The pairs, if each names a field that can be searched, and none twice."""
    pairs, known = list(pairs), [each.name for each in fields(Recipe)]
    for i, (name, _) in enumerate(pairs):
        if name == "seed":
            raise ConfigError(
                "space: seed cannot be searched: the best of many seeds is luck, not skill; try finetune --seeds"
            )
        if name not in known:
            raise ConfigError(f"space: got {name!r}, expected a field of the recipe: {', '.join(known)}")
        if name in [other for other, _ in pairs[:i]]:
            raise ConfigError(f"space: {name} is there twice; give all its values at once, {name}=a,b")
    return pairs


def _values(name: str, written: str) -> tuple[Any, ...] | Range:
    kinds = _kinds(name)
    ends = ENDS.fullmatch(written) if kinds[0] in (int, float) else None
    if ends is None:
        return tuple(_value(name, word, kinds) for word in next(csv.reader([written])))
    whole = all(re.fullmatch(r"[+-]?\d+", end) for end in ends.groups()[:2])
    if kinds[0] is int and not whole:
        raise ConfigError(f"space: {name}: got {written!r}, expected whole numbers, such as {name}=1..5")
    low, high = (_value(name, end, kinds) for end in (ends[1], ends[2]))
    return Range(low, high, log=ends[3] is not None, whole=whole)


def _kinds(name: str) -> tuple[type, ...]:
    """The type of a field, and perhaps None's."""
    hint = get_type_hints(Recipe)[name]
    return get_args(hint) or (hint,)


def _value(name: str, word: str, kinds: tuple[type, ...]) -> Any:
    """The value that a word stands for."""
    if NoneType in kinds and word == "none":
        return None
    try:
        return {"true": True, "false": False}[word] if kinds[0] is bool else kinds[0](word)
    except (KeyError, ValueError):
        expected = {bool: "true or false", int: "a whole number", float: "a number"}[kinds[0]]
        raise ConfigError(f"space: {name}: got {word!r}, expected {expected}") from None


def _checked(name: str, values: Any, recipe: Recipe) -> tuple[Any, ...] | Range:
    """The values, or the range, if each (each end) may stand in a recipe."""
    if isinstance(values, Range):
        if not values.low < values.high or (values.log and values.low <= 0):
            expected = "0 < low < high" if values.log else "low < high"
            raise ConfigError(f"space: {name}: got {values.low}..{values.high}, expected {expected}")
    elif isinstance(values, str) or not values:
        raise ConfigError(f"space: {name}: got {values!r}, expected a list of values, or a Range")
    tried: Sequence[Any] = (values.low, values.high) if isinstance(values, Range) else values
    for value in tried:
        kinds = _kinds(name)
        if not isinstance(value, (*kinds, int) if float in kinds else kinds):
            raise ConfigError(f"space: {name}: got {value!r}, expected {kinds[0].__name__}")
        change: dict[str, Any] = {name: value}
        replace(recipe, **change)  # it checks the value
    return values if isinstance(values, Range) else tuple(dict.fromkeys(values))
