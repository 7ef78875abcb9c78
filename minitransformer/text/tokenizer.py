"""The tokenizer: texts in, a Batch out, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tokenizers
import torch
from tokenizers import Encoding, models
from torch import Tensor

from minitransformer.errors import TokenizerError
from minitransformer.text.batch import Batch, real_positions, scatter
from minitransformer.text.files import library_errors
from minitransformer.text.pipeline import pipeline_settings, tokenizer_class
from minitransformer.text.rows import as_rows, kept

# Where clean_up_tokenization_spaces is set: the spaces that go before punctuation and English endings.
CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class Tokenizer:
    """Text to token ids and back, around a ``tokenizers.Tokenizer`` (``backend``).

    special: role -> token. config: tokenizer_config.json as it was read. notes: what the files left in doubt.
    model_max_length: the longest row the model takes; None when unset.
    model_input_names: the tensors of a batch. Where no file names them: input_ids and attention_mask, and
    token_type_ids if the special tokens of a pair tell its two texts apart (BERT yes; GPT-2, which has none, no).
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special: Mapping[str, str],
        config: Mapping[str, Any],
        model_max_length: int | None = None,
        model_input_names: Sequence[str] | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        notes: Sequence[str] = (),
    ) -> None:
        self.backend = backend
        self.special = dict(special)
        self.config = dict(config)
        self.model_max_length = model_max_length
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.notes = tuple(notes)
        marked = any(self.encodings("", "")[0].type_ids)  # of the special tokens around two empty texts
        usual = ["input_ids", "token_type_ids", "attention_mask"] if marked else ["input_ids", "attention_mask"]
        self.model_input_names = list(model_input_names or usual)

    def __call__(
        self,
        text: str | Sequence[str],
        pair: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: bool = False,
        padding: bool | Literal["max_length"] = True,
        add_special_tokens: bool = True,
        return_tensors: Literal["pt"] = "pt",
    ) -> Batch:
        """The token ids of texts, or of pairs of texts, as tensors [B T]; one text is a batch of one.

        truncation: cut rows to `max_length` (without it: model_max_length), of a pair the longer text first;
        ``batch.truncated`` tells what was cut. padding: True to the longest row, "max_length", or False where all rows
        are equally long. A tokenizer without a pad token (GPT-2) pads with its eos token: the attention mask tells.
        """
        if return_tensors != "pt":
            raise TokenizerError(f"return_tensors: got {return_tensors!r}, expected 'pt'; encode() gives lists")
        limit = self._limit(max_length, truncation, padding)
        encodings = self._encode(text, pair, add_special_tokens, offsets=False)
        rows = [encoding.ids for encoding in encodings]
        types = [encoding.type_ids for encoding in encodings]
        truncated = {row: len(ids) - limit for row, ids in enumerate(rows) if limit and truncation and len(ids) > limit}
        for row, lost in truncated.items():
            stay = kept(encodings[row], len(rows[row]) - lost, self.truncation_side)
            rows[row], types[row] = [rows[row][place] for place in stay], [types[row][place] for place in stay]
        real = self._real_positions([len(ids) for ids in rows], limit, padding)  # bool [B T]
        tensors = {
            "input_ids": scatter(rows, real, self._padding_id(real)),
            "token_type_ids": scatter(types, real, 0),
            "attention_mask": real.to(torch.int64),
        }
        return Batch({name: tensors[name] for name in tensors if name in self.model_input_names}, truncated=truncated)

    def encodings(
        self,
        text: str | Sequence[str],
        pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
    ) -> list[Encoding]:
        """Each text in full, with its ids, tokens, and offsets: where in the text each token stands."""
        return self._encode(text, pair, add_special_tokens, offsets=True)

    def encode(self, text: str, pair: str | None = None, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of one text, or of one pair."""
        return self._one(text, pair, add_special_tokens).ids

    def tokens(self, text: str, pair: str | None = None, *, add_special_tokens: bool = True) -> list[str]:
        """The tokens that `encode` gives the ids of."""
        return self._one(text, pair, add_special_tokens).tokens

    def decode(self, ids: Sequence[int] | Tensor, skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        numbers = self._checked(ids)
        with library_errors("these ids cannot be decoded"):
            text = self.backend.decode(numbers, skip_special_tokens=skip_special_tokens)
        if self.config.get("clean_up_tokenization_spaces") is True and not isinstance(self.backend.model, models.BPE):
            for ending in CLEAN_UP:
                text = text.replace(ending, ending.strip())
        return text

    def convert_ids_to_tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        """The token of each id."""
        return [str(self.backend.id_to_token(number)) for number in self._checked(ids)]

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which load_tokenizer and transformers' AutoTokenizer read.

        tokenizer_config.json keeps what it said, and says besides what is not in tokenizer.json.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = self.config | pipeline_settings(self.backend) | self.special
        config |= {"padding_side": self.padding_side, "truncation_side": self.truncation_side}
        config |= {
            "model_input_names": self.model_input_names,
            "tokenizer_class": tokenizer_class(self.backend, config),
        }
        if self.model_max_length is not None:
            config["model_max_length"] = self.model_max_length
        config.pop("added_tokens_decoder", None)  # they stand in tokenizer.json
        (folder / "tokenizer.json").write_text(self.backend.to_str(pretty=True), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @property
    def padding_side(self) -> str:
        """The side that short rows are filled up on: right, or left for generation with a decoder."""
        return self._padding_side

    @padding_side.setter
    def padding_side(self, side: str) -> None:
        if side not in ("left", "right"):
            raise TokenizerError(f"padding_side: got {side!r}, expected 'left' or 'right'")
        self._padding_side = side

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the vocabulary, without those added to it; ``len(tokenizer)`` counts them too."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    @property
    def pad_token_id(self) -> int | None:
        """The id that fills short rows up; None where there is none, as in GPT-2."""
        return self._id("pad_token")

    @property
    def cls_token_id(self) -> int | None:
        """The id that stands before a text, and for all of it."""
        return self._id("cls_token")

    @property
    def sep_token_id(self) -> int | None:
        """The id that stands between two texts and at the end."""
        return self._id("sep_token")

    @property
    def mask_token_id(self) -> int | None:
        """The id that hides a token which the model is to guess."""
        return self._id("mask_token")

    @property
    def unk_token_id(self) -> int | None:
        """The id of everything that is not in the vocabulary."""
        return self._id("unk_token")

    @property
    def bos_token_id(self) -> int | None:
        """The id that a generated text begins with."""
        return self._id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The id that a generated text ends with."""
        return self._id("eos_token")

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    def __repr__(self) -> str:
        return f"Tokenizer({len(self)} tokens, {self.special}, model_max_length={self.model_max_length})"

    def _id(self, role: str) -> int | None:
        return self.backend.token_to_id(self.special[role]) if role in self.special else None

    def _encode(self, text: Any, pair: Any, add_special_tokens: bool, *, offsets: bool) -> list[Encoding]:
        texts, pairs = as_rows(text, pair)
        inputs = texts if pairs is None else list(zip(texts, pairs, strict=True))
        encode = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        with library_errors("these texts cannot be encoded"):
            return encode(inputs, add_special_tokens=add_special_tokens)

    def _one(self, text: str, pair: str | None, add_special_tokens: bool) -> Encoding:
        if not isinstance(text, str):
            raise TokenizerError(f"text: got a {type(text).__name__}, expected one str; try tokenizer(texts)")
        return self.encodings(text, pair, add_special_tokens=add_special_tokens)[0]

    def _limit(self, max_length: int | None, truncation: bool, padding: bool | str) -> int | None:
        """The length to cut or to pad to; None where neither is asked for."""
        if padding not in (True, False, "max_length"):
            raise TokenizerError(f"padding: got {padding!r}, expected True, False or 'max_length'")
        if truncation not in (True, False):
            raise TokenizerError(f"truncation: got {truncation!r}, expected True or False")
        if max_length is not None and (
            isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1
        ):
            raise TokenizerError(f"max_length: got {max_length!r}, expected a number from 1 up")
        if not truncation and padding != "max_length":
            if max_length is not None:
                raise TokenizerError(
                    f"max_length {max_length}: has no effect alone; add truncation=True or padding='max_length'"
                )
            return None
        limit = max_length or self.model_max_length
        if limit is None:
            raise TokenizerError(
                "max_length: got None, and the tokenizer's files set no model_max_length; pass max_length="
            )
        return limit

    def _real_positions(self, lengths: list[int], limit: int | None, padding: bool | str) -> Tensor:
        """Where tokens stand, and no padding: bool [B T]."""
        width = limit if padding == "max_length" and limit else max(lengths)
        if max(lengths) > width:
            row = lengths.index(max(lengths))
            raise TokenizerError(f"row {row} has {lengths[row]} tokens, max_length is {width}; try truncation=True")
        if not padding and min(lengths) < width:
            raise TokenizerError(
                f"rows have {min(lengths)} to {width} tokens, expected the same of each; try padding=True"
            )
        return real_positions(lengths, width, self.padding_side)

    def _padding_id(self, real: Tensor) -> int:
        """The id for the positions without a token."""
        for number in (self.pad_token_id, self.eos_token_id):
            if number is not None:
                return number
        if real.all():
            return 0
        raise TokenizerError("rows differ in length, and there is no pad or eos token to fill them up with")

    def _checked(self, ids: Sequence[int] | Tensor) -> list[int]:
        """The ids as a list of int, all of them in the vocabulary."""
        numbers = ids.tolist() if isinstance(ids, Tensor) else ids
        if not isinstance(numbers, list | tuple):
            raise TokenizerError(f"ids: got {numbers!r:.40}, expected a list of ids")
        for position, number in enumerate(numbers):
            if not isinstance(number, int) or not 0 <= number < 2**32 or self.backend.id_to_token(number) is None:
                raise TokenizerError(
                    f"ids, position {position}: got {number!r}, expected an id among {len(self)} tokens"
                )
        return list(numbers)
