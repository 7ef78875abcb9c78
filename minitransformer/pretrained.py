"""The public face: `load` a model by name, and `Pretrained`, a Transformer with its tokenizer and its verbs."""

import os
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from minitransformer.checkpoint import Report, load_checkpoint, save_checkpoint
from minitransformer.errors import ConfigError, InputError, NotFoundError, TokenizerError
from minitransformer.families import Family, family_of, head_of
from minitransformer.families.fields import num_labels
from minitransformer.model import Output, Transformer
from minitransformer.storage import atomic_folder, read_json, resolve
from minitransformer.tasks import Prediction, classify
from minitransformer.text import Tokenizer, load_tokenizer


class Pretrained:
    """A Transformer, its tokenizer, the report of its loading, and what people do with them.

    Call it like the model: `model(**batch)`. The model itself, a plain torch module, is `.transformer`.
    """

    def __init__(
        self,
        transformer: Transformer,
        *,
        family: Family,
        raw_config: Mapping[str, Any],
        tokenizer: Tokenizer | None,
        report: Report,
    ) -> None:
        self.transformer = transformer
        self.family = family
        self.raw_config = dict(raw_config)  # config.json as it was read
        self.report = report
        self._tokenizer = tokenizer

    def __call__(self, *args: Any, **kwargs: Any) -> Output:
        """Run the model: see `Transformer.forward`."""
        return self.transformer(*args, **kwargs)

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer."""
        if self._tokenizer is None:
            raise TokenizerError(
                f"{self.report.source}: no tokenizer files there; put tokenizer.json beside the weights"
            )
        return self._tokenizer

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the head's labels, in the order of its logits."""
        return label_names(self.raw_config)

    @property
    def max_length(self) -> int | None:
        """How many tokens the model takes; None if there is no end."""
        limits = (self.transformer.config.embed.max_positions, self.tokenizer.model_max_length)
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def parameters(self) -> Iterator[nn.Parameter]:
        """The weights, for an optimizer."""
        return self.transformer.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The weights with their names."""
        return self.transformer.named_parameters()

    def to(self, device: torch.device | str) -> "Pretrained":
        """Move the weights to a device. Returns self."""
        self.transformer.to(device)
        return self

    def train(self, mode: bool = True) -> "Pretrained":
        """Switch dropout on (or off). Returns self."""
        self.transformer.train(mode)
        return self

    def eval(self) -> "Pretrained":
        """Switch dropout off. Returns self."""
        return self.train(False)

    def use(self, book: str) -> "Pretrained":
        """Compute with the formulas "by_hand" or "fused". Returns self."""
        self.transformer.use(book)
        return self

    def predict(self, texts: str | Sequence[str], *, batch_size: int = 32) -> list[Prediction]:
        """The most probable label of each text, with its probability."""
        if self.transformer.config.task != "sequence-classification":
            raise InputError(
                f"predict: got a model with the head {self.transformer.config.task}, expected sequence-classification; "
                f"fine-tune one, or load(name, head='sequence-classification')"
            )
        if len(self.labels) == 1 or self.raw_config.get("problem_type") not in (None, "single_label_classification"):
            raise InputError("predict: this head regresses, or gives several labels; read model(**batch).logits")
        if batch_size < 1:
            raise InputError(f"batch_size: got {batch_size}, expected 1 or more")
        texts = [texts] if isinstance(texts, str) else list(texts)
        return classify.predict(
            self.transformer, self.tokenizer, self.labels, texts, max_length=self.max_length, batch_size=batch_size
        )

    def save(self, folder: str | PathLike[str]) -> None:
        """Write a folder that `load` and transformers' from_pretrained read. All of it appears, or nothing."""
        if not os.fspath(folder):
            raise InputError("save: got an empty name, expected that of a folder")
        with atomic_folder(Path(folder)) as staging:
            self.write(staging)

    def write(self, folder: Path) -> None:
        """Write the files of `save` into an existing folder."""
        save_checkpoint(self.transformer, self.family, self.raw_config, folder)
        if self._tokenizer is not None:
            self._tokenizer.save(folder)


def load(
    name: str | PathLike[str],
    *,
    head: str | None = None,
    labels: Sequence[str] | int | None = None,
    new_head: bool = False,
    config: Mapping[str, Any] | None = None,
    revision: str | None = None,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: torch.device | str | None = None,
    strict: bool = True,
    check_finite: bool | None = None,
    allow_pickle: bool = False,
) -> Pretrained:
    """Load a model: a hub id, a folder, "package:NAME" (a folder inside an installed package), or "builtin:NAME".

    `head`: "base" or a task such as "sequence-classification"; by default the one that config.json names. A head that
    the file does not have gets new random weights, and the report says so. `labels`: their names, or how many.
    `new_head`: new weights for the head even if the file has one. `config`: fields that replace those of config.json.
    `revision`: a branch, tag or commit on the hub. `dtype`: what the weights become; "auto" keeps them as they are.
    `strict=False`: tensors that the model does not know are a warning. `check_finite`: look for NaN (by default in
    files of up to 1 GiB). `allow_pickle`: read pytorch_model.bin, without running code, where there is nothing better.
    """
    if dtype != "auto" and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InputError(f'dtype: got {dtype!r}, expected "auto" or a floating dtype such as torch.float32')
    folder = resolve(name, revision=revision, allow_pickle=allow_pickle)
    raw = read_raw_config(folder, config)
    if labels is not None:
        raw.update(_label_fields(labels))
        raw.pop("num_labels", None)  # old configs count them besides
    family = family_of(raw)
    chosen = head_of(raw, family) if head is None else head
    if chosen not in family.classes:
        raise ConfigError(f"head: got {chosen!r}, expected one of {', '.join(family.classes)} for {family.model_type}")
    tokenizer = _tokenizer(folder)
    if chosen == "sequence-classification" and head is not None and tokenizer is not None:
        _pad_with_eos(raw, tokenizer)
    transformer, report = load_checkpoint(
        folder,
        family,
        raw,
        chosen,
        may_be_new=head is not None,
        new_head=new_head,
        dtype=dtype,
        strict=strict,
        check_finite=check_finite,
        allow_pickle=allow_pickle,
    )
    if device is not None:
        transformer.to(device)
    if tokenizer is not None:
        _check_vocabulary(folder, tokenizer, transformer)
    return Pretrained(transformer, family=family, raw_config=raw, tokenizer=tokenizer, report=report)


def read_raw_config(folder: Path, replacing: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The folder's config.json, with some fields replaced. With `replacing`, there need not be a config.json."""
    path = folder / "config.json"
    try:
        raw = {} if replacing and not path.exists() else read_json(path)
    except NotFoundError as error:
        raise NotFoundError(f"{error}; or give its fields: load(name, config={{'model_type': ...}})") from None
    return {**raw, **(replacing or {})}


def label_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels that a config.json names; LABEL_0, LABEL_1, … where it only counts them."""
    names = raw.get("id2label")
    if isinstance(names, Mapping):
        try:
            return tuple(str(names[key]) for key in sorted(names, key=int))
        except ValueError:
            raise ConfigError(f"config.json: id2label: got the keys {list(names)[:5]}, expected numbers") from None
    return tuple(f"LABEL_{i}" for i in range(num_labels(raw)))


def _label_fields(labels: Sequence[str] | int) -> dict[str, Any]:
    """The fields of a config.json that say which labels there are."""
    names: list[str] = []
    if isinstance(labels, int) and not isinstance(labels, bool):
        names = [f"LABEL_{i}" for i in range(labels)]
    elif isinstance(labels, Sequence) and not isinstance(labels, str):
        names = list(labels)
    if len(set(names)) != len(names) or not names:
        raise ConfigError(f"labels: got {labels!r}, expected a number, or a list of at least one name, each once")
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer beside the weights, if there is one."""
    try:
        return load_tokenizer(folder)
    except NotFoundError:
        return None


def _pad_with_eos(raw: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Name the end token as padding where nothing is: a classifier that reads the last token must know what padding is.

    So GPT-2 becomes a classifier that transformers, too, can give several texts at once.
    """
    if raw.get("pad_token_id") is None and tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        raw["pad_token_id"] = tokenizer.eos_token_id
        tokenizer.special["pad_token"] = tokenizer.special["eos_token"]


def _check_vocabulary(folder: Path, tokenizer: Tokenizer, transformer: Transformer) -> None:
    """Raise a TokenizerError if the tokenizer knows more tokens than the model."""
    size = transformer.config.embed.vocab_size
    if len(tokenizer) > size:
        raise TokenizerError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, but the model embeds {size}; "
            f"the tokenizer belongs to another model"
        )
