"""What a model reads of a text or an image: the batch of one, and its tokens one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitransformer.config import LanguageModelConfig, PatchEmbeddingConfig, TransformerConfig
from minitransformer.errors import InputError, refuse
from minitransformer.generation import generate
from minitransformer.generation.settings import settings
from minitransformer.images import Image, ImageProcessor
from minitransformer.model import Transformer
from minitransformer.model.transformer import TWICE_READ
from minitransformer.text import Batch, Tokenizer

MOST_WRITTEN = 40  # tokens that a model writes itself, where no target is given


@dataclass(frozen=True, eq=False)
class Reading:
    """One text, or a pair, or an image, as the model reads it. S tokens of the encoder or the only stack, T behind."""

    batch: Batch  # input_ids [1 S], … and decoder_input_ids [1 T] behind an encoder; or pixel_values [1 C height width]
    tokens: tuple[str, ...]  # S; of an image "[CLS]", then each patch's "row,column"
    decoder_tokens: tuple[str, ...] | None = None  # T: what a decoder behind an encoder reads
    second: int | None = None  # the place where the second text begins


def read(
    model: Transformer,
    reader: Tokenizer | ImageProcessor,
    text: str | Image,
    pair: str | None = None,
    *,
    target: str | None = None,
    max_length: int | None = None,
    generation: Mapping[str, Any] | None = None,
) -> Reading:
    """What the model reads of a text, or of an image, on the model's device. Nothing is cut: too long is an InputError.

    pair: a second text. target: what a decoder behind an encoder is to write; it reads the start token and the target
    without its last token. Without one, a language model writes it: the most probable tokens, at most 40, by the
    settings in `generation`. max_length: of the text, in tokens.
    """
    device = next(model.parameters()).device
    if isinstance(model.config.embed, PatchEmbeddingConfig):
        refuse("this model reads one image", pair=pair, target=target)
        return Reading(_image(reader, text).to(device), image_tokens(model.config.embed))
    if not isinstance(reader, Tokenizer):
        raise InputError(f"this model reads texts: got a {type(reader).__name__}, expected its tokenizer")
    _check_text("text", text, reader)
    if pair is not None:
        _check_text("pair", pair, reader)
        _check_takes_pairs(reader)
    batch = reader(text, pair)  # type: ignore[arg-type]  # an image was refused
    _check_length("text" if pair is None else "text and pair", batch["input_ids"], max_length)
    sequences = reader.encodings(text, pair)[0].sequence_ids  # type: ignore[arg-type]
    second = sequences.index(1) if pair is not None else None
    batch = batch.to(device)
    tokens = tokens_of(reader, batch["input_ids"])
    if model.encoder is None or model.decoder is None:
        refuse("this model has one stack, which reads the text alone", target=target)
        return Reading(batch, tokens, second=second)
    read_by_decoder = _for_decoder(model, reader, batch, target, generation or {})  # [1 T]
    batch["decoder_input_ids"] = read_by_decoder
    return Reading(batch, tokens, tokens_of(reader.target, read_by_decoder), second)


def tokens_of(tokenizer: Tokenizer, ids: Tensor) -> tuple[str, ...]:
    """The token of each id, int [1 T], as it stands in the vocabulary; <id> for an id that has none."""
    found = ((number, tokenizer.backend.id_to_token(number)) for number in ids[0].tolist())
    return tuple(f"<{number}>" if token is None else token for number, token in found)


def image_tokens(embed: PatchEmbeddingConfig) -> tuple[str, ...]:
    """The names of what an image becomes: its special tokens, then "row,column" of each patch."""
    rows, columns = (size // patch for size, patch in zip(embed.image_size, embed.patch_size, strict=True))
    special = ("[CLS]", "[DIST]")[: embed.special_tokens]
    return (*special, *(f"{row},{column}" for row in range(rows) for column in range(columns)))


def shifted(ids: Tensor, config: TransformerConfig) -> Tensor:
    """What a decoder reads that is to write these: they come one place later, behind the start. [B T] -> [B T]."""
    return torch.cat((torch.full_like(ids[:, :1], config.decoder_start_id or 0), ids[:, :-1]), dim=1)


def _image(reader: Tokenizer | ImageProcessor, image: str | Image) -> Batch:
    if not isinstance(reader, ImageProcessor):
        raise InputError(f"this model reads images: got a {type(reader).__name__}, expected its image processor")
    if isinstance(image, list | tuple):
        raise InputError(f"image: got a {type(image).__name__}, expected one image; call it once for each")
    if isinstance(image, str | PathLike) and not _is_file(image):
        raise InputError(f"this model reads images: there is no file {str(image)!r:.80}; expected an image or its path")
    return reader(image)


def _is_file(path: str | PathLike[str]) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # a text may be too long for a name, or hold a zero byte
        return False


def _check_text(name: str, text: object, tokenizer: Tokenizer) -> None:
    """Raise an InputError unless this is one text with a token in it."""
    if isinstance(text, list | tuple):
        raise InputError(f"{name}: got a {type(text).__name__}, expected one text; call it once for each")
    if not isinstance(text, str):
        raise InputError(f"{name}: this model reads texts: got a {type(text).__name__}, expected a str")
    if not tokenizer.encode(text, add_special_tokens=False):
        raise InputError(f"{name}: got {text!r:.40}, in which there is no token; give it a word")


def _check_takes_pairs(tokenizer: Tokenizer) -> None:
    """Raise an InputError if nothing would stand between the two texts: the model would read them as one."""
    sequences = tokenizer.encodings("a", "a")[0].sequence_ids
    if None not in sequences[sequences.index(0) : sequences.index(1)]:
        raise InputError("pair: this model's tokenizer puts nothing between two texts; join them into one text")


def _check_length(name: str, ids: Tensor, limit: int | None) -> None:
    if limit is not None and ids.shape[1] > limit:
        raise InputError(f"{name}: got {ids.shape[1]} tokens, and the model takes {limit}; shorten the text")


def _for_decoder(
    model: Transformer, tokenizer: Tokenizer, batch: Batch, target: str | None, generation: Mapping[str, Any]
) -> Tensor:
    """What the decoder behind an encoder reads: int [1 T]."""
    if isinstance(model.config.head, TWICE_READ):
        refuse("the decoder of this model reads the text a second time", target=target)
        return shifted(batch["input_ids"], model.config)
    if target is not None:
        _check_text("target", target, tokenizer.target)
        written = tokenizer.target(target)["input_ids"].to(batch["input_ids"].device)
        embed = model.config.target_embed or model.config.embed
        _check_length("target", written, None if isinstance(embed, PatchEmbeddingConfig) else embed.max_length)
        return shifted(written, model.config)
    if not isinstance(model.config.head, LanguageModelConfig):
        raise InputError("target: got none, and this model has no head to write one; say what its decoder is to read")
    return _written(model, tokenizer.target, batch, generation)[:, :-1]


def _written(model: Transformer, tokenizer: Tokenizer, batch: Batch, generation: Mapping[str, Any]) -> Tensor:
    """The start token and what the model writes for the text: int [1 T]."""
    positions = getattr(model.config.target_embed or model.config.embed, "max_length", None)
    longest = MOST_WRITTEN if positions is None else max(1, min(MOST_WRITTEN, positions - 1))
    greedy = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1, "min_length": 0, "min_new_tokens": None}
    config = settings(generation, {"max_new_tokens": longest, **greedy})
    return generate(model, batch["input_ids"], batch.get("attention_mask"), config=config, tokenizer=tokenizer)
