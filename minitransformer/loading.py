"""From a name to a model: config, weights, tokenizer, and what else stands beside them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import torch

from minitransformer.checkpoint import adapter_base, adapter_head, is_adapter, load_adapter, load_checkpoint
from minitransformer.config import TokenEmbeddingConfig
from minitransformer.errors import ConfigError, InputError, NotFoundError, TokenizerError
from minitransformer.families import Family, family_of, head_of
from minitransformer.model import Transformer
from minitransformer.pretrained import GENERATION, PREPROCESSOR, Pretrained
from minitransformer.storage import read_json, resolve
from minitransformer.tasks.labels import label_fields
from minitransformer.tasks.sentence_folder import SentenceFolder, lower_case, read_sentence_folder
from minitransformer.text import Tokenizer, load_tokenizer
from minitransformer.text.settings import chat_template

OF_RUNS = {f"finetuning_{name}" for name in ("task", "max_length", "stride")} | {"prefix", "answers_may_be_empty"}
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
    A folder with an adapter (adapter_config.json, as peft writes it) is loaded into the base that it names.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f'dtype: got {dtype!r}, expected "auto" or one of {", ".join(map(str, DTYPES))}')
    _check_device(device)
    folder = resolve(name, revision=revision, allow_pickle=allow_pickle)
    if is_adapter(folder):
        if new_head:
            raise ConfigError(f"{name}: an adapter's head was trained with it; for a new one, merge the adapter first")
        rest = {"dtype": dtype, "device": device, "strict": strict, "check_finite": check_finite}
        return _with_adapter(folder, head, {**(config or {}), **({} if labels is None else label_fields(labels))}, rest)
    raw = read_raw_config(folder, config)
    if labels is not None:
        raw.update(label_fields(labels))
        raw.pop("num_labels", None)  # old configs count them besides
    family = family_of(raw)
    chosen = head_of(raw, family) if head is None else head
    if chosen not in family.classes:
        raise ConfigError(f"head: got {chosen!r}, expected one of {', '.join(family.classes)} for {family.model_type}")
    tokenizer = _tokenizer(folder, family)
    if chosen == "sequence-classification" and head is not None and tokenizer is not None:
        _name_padding(raw, tokenizer)
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
    sentences = read_sentence_folder(folder, transformer.config.embed.d_model)
    if tokenizer is not None and isinstance(sentences, SentenceFolder) and sentences.lowers_case:
        lower_case(tokenizer)
    return Pretrained(
        transformer,
        family=family,
        raw_config=raw,
        tokenizer=tokenizer,
        report=report,
        preprocessor=read_json(folder / PREPROCESSOR) if (folder / PREPROCESSOR).exists() else None,
        sentences=sentences,
        generation_config=read_json(folder / GENERATION) if (folder / GENERATION).exists() else None,
        base=fspath(name),
    )


def _with_adapter(folder: Path, head: str | None, config: Mapping[str, Any], rest: Mapping[str, Any]) -> Pretrained:
    """The base that an adapter names, with the adapter and the head that was trained with it."""
    base = adapter_base(folder)
    if is_adapter(resolve(base)):
        raise ConfigError(f"{folder}: its base, {base!r}, is an adapter itself, expected a whole model")
    own = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    raw = {**read_raw_config(resolve(base)), **own, **config}
    family = family_of(raw)
    head = head or (head_of(own, family) if own else adapter_head(folder, family))
    model = load(base, head=head, config={**own, **config}, **rest)
    replaced = load_adapter(model.transformer, family, folder)
    fresh = {name: why for name, why in model.report.fresh.items() if name not in replaced}
    model.report = replace(model.report, fresh=fresh, notes=(*model.report.notes, f"adapter and head from {folder}"))
    if own:  # as a run writes it; what the run of the base has kept is not the adapter's
        for name in OF_RUNS - own.keys():
            model.raw_config.pop(name, None)
    if (folder / GENERATION).exists():
        model.generation_config = read_json(folder / GENERATION)
    said = folder / "tokenizer_config.json"
    template = chat_template(folder, read_json(said) if said.exists() else {})
    if template is not None:
        with suppress(TokenizerError):  # a base without a tokenizer
            model.tokenizer.chat_template = template
    return model


def read_raw_config(folder: Path, replacing: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The folder's config.json, with some fields replaced. With `replacing`, there need not be a config.json."""
    path = folder / "config.json"
    try:
        raw = {} if replacing and not path.exists() else read_json(path)
    except NotFoundError as error:
        raise NotFoundError(f"{error}; or give its fields: load(name, config={{'model_type': ...}})") from None
    return {**raw, **(replacing or {})}


def _tokenizer(folder: Path, family: Family) -> Tokenizer | None:
    """The tokenizer beside the weights, if there is one, and the family reads texts."""
    try:
        return load_tokenizer(folder, tokenizer_class=family.tokenizer) if family.tokenizer else None
    except NotFoundError:
        return None


def _check_device(device: torch.device | str | None) -> None:
    """Raise an InputError for a device that is not there, before anything is read."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device: got {device!r}, which cannot be used ({str(error).splitlines()[0]})") from None


def _name_padding(raw: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Say in the config what padding is, where it does not: a classifier that reads the last token must know.

    That is the tokenizer's pad token, or else its end token. So GPT-2 becomes a classifier that transformers, too, can
    give several texts at once.
    """
    if raw.get("pad_token_id") is not None:
        return
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.special["pad_token"] = tokenizer.special["eos_token"]
    if tokenizer.pad_token_id is not None:
        raw["pad_token_id"] = tokenizer.pad_token_id


def _check_vocabulary(folder: Path, tokenizer: Tokenizer, transformer: Transformer) -> None:
    """Raise a TokenizerError if the tokenizer knows more tokens than the model."""
    embed = transformer.config.embed
    if isinstance(embed, TokenEmbeddingConfig) and len(tokenizer) > embed.vocab_size:
        raise TokenizerError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, but the model embeds {embed.vocab_size}; "
            f"the tokenizer belongs to another model"
        )
