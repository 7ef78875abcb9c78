"""The tokenizer: texts in, a Batch out, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import tokenizers
import torch
from tokenizers import Encoding, models
from torch import Tensor

from minitransformer.errors import TokenizerError
from minitransformer.text.batch import Batch, real_positions, scatter, with_labels
from minitransformer.text.files import library_errors
from minitransformer.text.marian import MarianBackend
from minitransformer.text.pipeline import saved_files, saved_settings
from minitransformer.text.rows import as_rows, kept, row_limit
from minitransformer.text.settings import ROLES, chat_template_files

# Where clean_up_tokenization_spaces is set: the spaces that go before punctuation and English endings.
CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")

Conversation = Sequence[Mapping[str, Any]]  # messages, {"role": ..., "content": ...} each


class Tokenizer:
    """Text to token ids and back, around a ``tokenizers.Tokenizer`` (``backend``), or Marian's two of them.

    special: role -> token. config: tokenizer_config.json as it was read. notes: what the files left in doubt.
    model_max_length: the longest row the model takes; None when unset.
    model_input_names: the tensors of a batch. Where no file names them: input_ids and attention_mask, and
    token_type_ids if the special tokens of a pair tell its two texts apart (BERT yes; GPT-2, which has none, no).
    target: the tokenizer of what a model is to write; this one itself, but for a translation model with two.
    chat_template: how a conversation becomes one text; name -> template where there are several; None for none.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer | MarianBackend,
        *,
        special: Mapping[str, str],
        config: Mapping[str, Any],
        model_max_length: int | None = None,
        model_input_names: Sequence[str] | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        chat_template: str | dict[str, str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.backend = backend
        self.special = dict(special)
        self.config = dict(config)
        self.model_max_length = model_max_length
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.chat_template = chat_template
        self.notes = tuple(notes)
        self.cleans_up = config.get("clean_up_tokenization_spaces") is True and not isinstance(
            backend.model, models.BPE
        )
        marked = any(self.encodings("", "")[0].type_ids)  # of the special tokens around two empty texts
        usual = ["input_ids", "token_type_ids", "attention_mask"] if marked else ["input_ids", "attention_mask"]
        self.model_input_names = list(model_input_names or usual)
        self.target: Tokenizer = self

    def __call__(
        self,
        text: str | Sequence[str],
        pair: str | Sequence[str] | None = None,
        *,
        text_target: str | Sequence[str] | None = None,
        max_length: int | None = None,
        truncation: bool = False,
        padding: bool | Literal["max_length"] = True,
        padding_side: Literal["left", "right"] | None = None,
        add_special_tokens: bool = True,
        return_tensors: Literal["pt"] = "pt",
    ) -> Batch:
        """The token ids of texts, or of pairs of texts, as tensors [B T]; one text is a batch of one.

        truncation: cut rows to `max_length` (without it: model_max_length), of a pair the longer text first;
        ``batch.truncated`` tells what was cut. padding: True to the longest row, "max_length", or False where all rows
        are equally long. padding_side: in place of the tokenizer's own. Without a pad token (GPT-2), rows are filled
        up with eos, or unk: the attention mask tells.
        text_target: what a model is to write for each text; its ids, encoded likewise, are the batch's ``labels``.
        """
        if return_tensors != "pt":
            raise TokenizerError(f"return_tensors: got {return_tensors!r}, expected 'pt'; encode() gives lists")
        limit = row_limit(max_length, truncation, padding, self.model_max_length)
        encodings = self._encode(text, pair, add_special_tokens, offsets=False)
        cut = limit if truncation else None
        rows = [self.cut(encoding, cut) for encoding in encodings]
        lost = {row: len(encoding.ids) - len(rows[row]["input_ids"]) for row, encoding in enumerate(encodings)}
        batch = self._padded(rows, limit, padding, padding_side)
        batch.truncated = {row: tokens for row, tokens in lost.items() if tokens}
        if text_target is None:
            return batch
        return with_labels(
            batch,
            self.target(
                text_target,
                max_length=max_length,
                truncation=truncation,
                padding=padding,
                padding_side=padding_side,
                add_special_tokens=add_special_tokens,
            ),
        )

    def encodings(
        self,
        text: str | Sequence[str],
        pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
    ) -> list[Encoding]:
        """Each text in full, with its ids, tokens, and offsets: where in the text each token stands.

        Marian's have ids, tokens, type_ids, offsets and sequence_ids alone.
        """
        return self._encode(text, pair, add_special_tokens, offsets=True)

    def cut(self, encoding: Encoding, max_length: int | None) -> dict[str, list[int]]:
        """The ids and types of an encoding, cut to `max_length` tokens: a row for `pad`. None: in full."""
        ids, types = encoding.ids, encoding.type_ids
        if max_length is not None and len(ids) > max_length:
            stay = kept(encoding, max_length, self.truncation_side)
            ids, types = [ids[place] for place in stay], [types[place] for place in stay]
        return {"input_ids": ids, "token_type_ids": types}

    def pad(
        self, rows: Sequence[Mapping[str, Sequence[int]]], *, padding_side: Literal["left", "right"] | None = None
    ) -> Batch:
        """Rows of input_ids (and perhaps token_type_ids) as tensors [B T], as long as the longest, with their mask."""
        return self._padded(rows, None, True, padding_side)

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
        if self.cleans_up:
            for ending in CLEAN_UP:
                text = text.replace(ending, ending.strip())
        return text

    def convert_ids_to_tokens(self, ids: Sequence[int] | Tensor) -> list[str]:
        """The token of each id."""
        return [str(self.backend.id_to_token(number)) for number in self._checked(ids)]

    @overload
    def apply_chat_template(
        self, messages: Conversation, *, add_generation_prompt: bool = ..., chat_template: str | None = ...
    ) -> str: ...
    @overload
    def apply_chat_template(
        self, messages: Sequence[Conversation], *, add_generation_prompt: bool = ..., chat_template: str | None = ...
    ) -> list[str]: ...
    def apply_chat_template(
        self,
        messages: Conversation | Sequence[Conversation],
        *,
        add_generation_prompt: bool = False,
        chat_template: str | None = None,
    ) -> str | list[str]:
        """The text of messages, {"role": ..., "content": ...} each, with its special tokens: encode it without more.

        Of several lists of messages, a list of texts. A call starts a process: 0.1 to 0.2 s, for one or many.
        add_generation_prompt: end where the model's answer begins. chat_template: in place of the tokenizer's own, or
        the name of one of several.
        """
        from minitransformer.text.chat import choose, render  # here, as few need it

        template = choose(self.chat_template, chat_template)
        variables = {**self.special, "add_generation_prompt": add_generation_prompt}
        if isinstance(messages, list | tuple) and messages and isinstance(messages[0], list | tuple):
            return render(template, messages, variables)
        return render(template, [messages], variables)[0]

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which load_tokenizer and transformers' AutoTokenizer read.

        A chat template goes to chat_template.jinja beside them.
        tokenizer_config.json keeps what it said, and says besides what is not in tokenizer.json. The files that the
        tokenizer came from (vocab.txt, spiece.model ...) are not written; tokenizer.json holds all of them. Only Marian
        has no tokenizer.json: its .spm files and vocabularies are kept, and written as they were read.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = saved_settings(self.backend, self.config) | {role: self.special.get(role) for role in ROLES}
        config |= {"padding_side": self.padding_side, "truncation_side": self.truncation_side}
        config |= {"model_input_names": self.model_input_names}
        if self.model_max_length is not None:
            config["model_max_length"] = self.model_max_length
        config.pop("chat_template", None)  # it has a file of its own
        for name, content in (saved_files(self.backend) | chat_template_files(self.chat_template)).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
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
        encode: Any = self.backend.encode_batch if offsets else self.backend.encode_batch_fast
        with library_errors("these texts cannot be encoded"):
            return encode(inputs, add_special_tokens=add_special_tokens)

    def _one(self, text: str, pair: str | None, add_special_tokens: bool) -> Encoding:
        if not isinstance(text, str):
            raise TokenizerError(f"text: got a {type(text).__name__}, expected one str; try tokenizer(texts)")
        return self.encodings(text, pair, add_special_tokens=add_special_tokens)[0]

    def _padded(
        self,
        rows: Sequence[Mapping[str, Sequence[int]]],
        limit: int | None,
        padding: bool | str,
        padding_side: str | None,
    ) -> Batch:
        """The batch of these rows, with the tensors that the model takes."""
        ids = [row["input_ids"] for row in rows]
        real = self._real_positions([len(row) for row in ids], limit, padding, padding_side)  # bool [B T]
        tensors = {"input_ids": scatter(ids, real, self._padding_id(real)), "attention_mask": real.to(torch.int64)}
        if all("token_type_ids" in row for row in rows):
            tensors["token_type_ids"] = scatter([row["token_type_ids"] for row in rows], real, 0)
        names = ("input_ids", "token_type_ids", "attention_mask")
        return Batch({name: tensors[name] for name in names if name in tensors and name in self.model_input_names})

    def _real_positions(
        self, lengths: list[int], limit: int | None, padding: bool | str, padding_side: str | None
    ) -> Tensor:
        """Where tokens stand, and no padding: bool [B T]."""
        width = limit if padding == "max_length" and limit else max(lengths)
        if max(lengths) > width:
            row = lengths.index(max(lengths))
            raise TokenizerError(f"row {row} has {lengths[row]} tokens, max_length is {width}; try truncation=True")
        if not padding and min(lengths) < width:
            raise TokenizerError(
                f"rows have {min(lengths)} to {width} tokens, expected the same of each; try padding=True"
            )
        if padding_side not in (None, "left", "right"):
            raise TokenizerError(f"padding_side: got {padding_side!r}, expected 'left' or 'right'")
        return real_positions(lengths, width, padding_side or self.padding_side)

    def _padding_id(self, real: Tensor) -> int:
        """The id for the positions without a token."""
        for number in (self.pad_token_id, self.eos_token_id, self.unk_token_id):
            if number is not None:
                return number
        if real.all():
            return 0
        raise TokenizerError("rows differ in length, and there is no pad, eos or unk token to fill them up with")

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
