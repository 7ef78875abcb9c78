"""The text of tokens as they come, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import decoders

from minitransformer.text.tokenizer import CLEAN_UP, Tokenizer

WINDOW = 32  # a window of more tokens is cut ...
CONTEXT = 8  # ... to the last of them: a token's text depends on few before it
HALF = "\ufffd"  # what bytes that are no character are decoded to: maybe the first half of one


class TextStream:
    """What a tokenizer decodes tokens to, handed out piece by piece, and never taken back.

    The pieces joined are the text of prompt and tokens, without the prompt's own. A piece is given once no later token
    can change it. Held back are: half a character; SentencePiece's byte tokens, until a token of another kind follows;
    white space at the end, but not with byte-level tokens; and, where spaces before punctuation are cleaned up, the
    last few characters.

    A window of the last tokens is decoded, not all of them. It is cut where a shorter one gives the same text.
    (The library's own DecodeStream fails on bytes that are no characters, and does not clean up spaces.)
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = (), skip_special_tokens: bool = True) -> None:
        self.tokenizer = tokenizer
        self.skip_special_tokens = skip_special_tokens
        self._window: list[int] = []
        self._given = 0  # so many characters of the window's text were handed out, or are the prompt's
        self._prompt = ""  # what the prompt's text ends with, where a further token can change it
        decoder = getattr(tokenizer.backend, "decoder", None)  # Marian has none of its own
        self._byte_level = isinstance(decoder, decoders.ByteLevel) and not tokenizer.cleans_up
        self.add(prompt_ids)
        text = self._text()
        self._prompt = text[self._given :]

    def add(self, ids: Sequence[int]) -> str:
        """The text that has become final with these tokens."""
        self._window += [number for number in ids if not self._skipped(number)]
        if not self._window or self._is_byte(self._window[-1]):
            return ""
        text = self._text()
        piece = self._take(text, self._final(text))
        if len(self._window) > WINDOW:
            self._cut(text)
        return piece

    def end(self) -> str:
        """The text that is left when no token follows."""
        text = self._text()
        return self._take(text, len(text))

    def _text(self) -> str:
        return self.tokenizer.decode(self._window, skip_special_tokens=self.skip_special_tokens)

    def _take(self, text: str, end: int) -> str:
        """The text from where it was handed out up to `end`, without what is the prompt's."""
        piece = text[self._given : max(end, self._given)]
        if self._prompt.startswith(piece):
            return ""
        self._given += len(piece)
        prompts, self._prompt = shared(self._prompt, piece), ""
        return piece[prompts:]

    def _final(self, text: str) -> int:
        """How many characters of a text stay as they are, whatever tokens follow."""
        if self._byte_level:
            return len(text.removesuffix(HALF))
        if self.tokenizer.cleans_up:
            text = text[: -max(map(len, CLEAN_UP))]
        return len(text.rstrip().removesuffix(HALF).rstrip())

    def _cut(self, text: str) -> None:
        """Let the window begin later, if its text stays the same from before what is not handed out yet."""
        shorter = self.tokenizer.decode(self._window[-CONTEXT:], skip_special_tokens=self.skip_special_tokens)
        if shared(text[::-1], shorter[::-1]) > len(text) - self._given:
            self._window = self._window[-CONTEXT:]
            self._given += len(shorter) - len(text)

    def _skipped(self, number: int) -> bool:
        """Whether a token is a special one without text."""
        decode = self.tokenizer.decode
        return self.skip_special_tokens and not decode([number], skip_special_tokens=True) and bool(decode([number]))

    def _is_byte(self, number: int) -> bool:
        """Whether a token is one byte, which SentencePiece spells <0xE2>."""
        (token,) = self.tokenizer.convert_ids_to_tokens([number])
        return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def with_text(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The ids that there are tokens for: a model's table may have more rows, which it hardly ever chooses."""
    return [number for number in ids if tokenizer.backend.id_to_token(number) is not None]


def shared(one: str, other: str) -> int:
    """How many characters two texts have in common, from the first on."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
