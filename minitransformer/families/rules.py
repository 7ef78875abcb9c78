"""The language in which a family says how its file's names and ours correspond. Rules are data; nothing here runs them.

Placeholders in names: `{i}` a layer's number, `{wb}` weight or bias, `{stack}` encoder or decoder (whichever the model
has). A rule stands for as many tensors as the model has names that match `ours`; the same line loads and saves.
File names are written without the prefix (such as "bert.") that a file may or may not put before all but the head;
in a Tie or a Copy, `{prefix}` says where it stands.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minitransformer.config import ClassificationConfig, TransformerConfig
from minitransformer.families.fields import NOWHERE, check_problem_type, check_sizes, num_labels, one_name, refuse


@dataclass(frozen=True)
class Map:
    """One tensor of the file is one of ours.

    `transpose`: the file holds a matrix as [in, out], ours is [out, in]. `ones`: the file's shape has so many leading
    dimensions of size 1, which ours does not have.
    """

    file: str
    ours: str
    transpose: bool = False
    ones: int = 0
    zeros: bool = False  # a file that lacks it means zeros


@dataclass(frozen=True)
class Split:
    """One tensor of the file holds several of ours, one after the other (along dimension 0, once transposed)."""

    file: str
    ours: tuple[str, ...]
    transpose: bool = False


@dataclass(frozen=True)
class Tie:
    """A second name in the file for a tensor of ours. Read if it is the only one there; never written.

    If both are there and differ, the file has untied them, and the model is built with an untied head. A name without
    `{prefix}` belongs to the head of a language model, and is a tie only there.
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
class Sinusoids:
    """A table in the file that is computed here, by the book's `formula`: compared when read, perhaps written."""

    file: str
    formula: str
    written: bool


@dataclass(frozen=True)
class Alias:
    """An old spelling (a regular expression) of a file name, and the present one. Read only."""

    pattern: str
    replacement: str


Rule = Map | Split | Tie | Copy | Sinusoids | Ignore | Alias


def tying(config: TransformerConfig) -> dict[str, Any]:
    """What most config.json files say of a language model's head: whether its matrix is the token table."""
    return {} if config.lm is None else {"tie_word_embeddings": config.lm.tied}


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that a checkpoint family is: its config in our terms, and its names."""

    model_type: str
    differs: str  # what is its own in the mathematics, for a table
    tokenizer: str = ""  # the class of transformers that reads its tokenizer's files
    image_processor: str = ""  # the class of transformers that reads its preprocessor_config.json
    prefix: str
    classes: Mapping[str, str]  # head -> the class of transformers that has it
    config: Callable[[Mapping[str, Any], str], TransformerConfig]  # (config.json, head) -> ours: call `translate`
    rules: Callable[[TransformerConfig], Sequence[Rule]]
    refuses: Mapping[str, tuple[Any, ...]] = field(
        default_factory=dict
    )  # config field -> the only values that are taken
    synonyms: Mapping[str, str] = field(default_factory=dict)  # another name for a config field -> the one used here
    prefixes: Mapping[str, str] = field(default_factory=dict)  # heads whose files have another prefix
    in_memory: Mapping[str, str] = field(default_factory=dict)  # parts of file names -> as transformers' modules say it
    learning_rate: float = 2e-5  # that is usual where all of the model trains
    saved: Callable[[TransformerConfig], Mapping[str, Any]] = tying  # fields of config.json that loading may change

    def translate(self, raw: Mapping[str, Any], head: str) -> TransformerConfig:
        """A config.json and a head's name, in our terms; a ConfigError for what would change the numbers unseen."""
        raw = one_name(raw, self.synonyms)
        refuse(raw, {**NOWHERE, **self.refuses})
        num_labels(raw)  # even where no head reads it, nothing may be wrong with it
        config = self.config(raw, head)
        check_sizes(config)
        if isinstance(config.head, ClassificationConfig) and head != "multiple-choice":
            check_problem_type(raw, config.head.num_labels)
        return config

    def prefix_of(self, head: str) -> str:
        """What a file with this head writes before all but the head's names."""
        return self.prefixes.get(head, self.prefix)

    def module_of(self, file: str) -> str:
        """The module of transformers that holds this tensor of the file: its name there, less the last part."""
        for part, spelling in self.in_memory.items():
            file = file.replace(part, spelling)
        return file.rpartition(".")[0]

    def class_of(self, config: TransformerConfig) -> str:
        """The class of transformers that is such a model."""
        alone = config.head is None and config.decoder is None and "encoder" in self.classes
        return self.classes["encoder" if alone else config.task]
