"""The language in which a family says how its file's names and ours correspond. Rules are data; nothing here runs them.

Placeholders in names: `{i}` a layer's number, `{wb}` weight or bias, `{stack}` encoder or decoder (whichever the model
has). A rule stands for as many tensors as the model has names that match `ours`; the same line loads and saves.
File names are written without the prefix (such as "bert.") that a file may or may not put before all but the head.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minitransformer.config import TransformerConfig


@dataclass(frozen=True)
class Map:
    """One tensor of the file is one of ours. `transpose`: the file holds a matrix as [in, out], ours is [out, in]."""

    file: str
    ours: str
    transpose: bool = False


@dataclass(frozen=True)
class Split:
    """One tensor of the file holds several of ours, one after the other (along dimension 0, once transposed)."""

    file: str
    ours: tuple[str, ...]
    transpose: bool = False


@dataclass(frozen=True)
class Tie:
    """A second name in the file for a tensor of ours. Read if it is the only one there; never written.

    If both are there and differ, the file has untied them, and the model is built with `untied` heads.
    """

    file: str
    ours: str


@dataclass(frozen=True)
class Copy:
    """A tensor that is not used, but that other readers of the file expect: not read, written as a copy of `ours`."""

    file: str
    ours: str
    why: str


@dataclass(frozen=True)
class Ignore:
    """File names (a regular expression) that carry nothing: counted in the report, never written."""

    pattern: str
    why: str


@dataclass(frozen=True)
class Alias:
    """An old spelling (a regular expression) of a file name, and the present one. Read only."""

    pattern: str
    replacement: str


Rule = Map | Split | Tie | Copy | Ignore | Alias


@dataclass(frozen=True)
class Family:
    """All that a checkpoint family is: its config in our terms, and its names."""

    model_type: str
    prefix: str
    classes: Mapping[str, str]  # head -> the class of transformers that has it
    config: Callable[[Mapping[str, Any], str], TransformerConfig]  # (config.json, head) -> ours; refuses what it must
    rules: Callable[[TransformerConfig], Sequence[Rule]]
