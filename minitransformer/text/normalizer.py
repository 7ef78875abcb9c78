"""SentencePiece's own normalizer: characters rewritten by a table, spaces squeezed and turned into ▁.

``tokenizers`` has the same table (Precompiled), but looks up what a reader sees as one character, and of that takes the
shortest match: a letter with two accents loses the second. What transformers reads with ``tokenizers`` gets that one,
what it reads with SentencePiece this one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from minitransformer.errors import TokenizerError
from minitransformer.text.sentencepiece import SPACE, Model


@dataclass(frozen=True, kw_only=True)
class Normalizer:
    """What a text becomes before it is cut into pieces. units: the table's trie; texts: what its entries become."""

    units: tuple[int, ...]
    texts: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool

    def __call__(self, text: str) -> tuple[str, list[int]]:
        """The text as pieces spell it, and where in the text each of its characters comes from; at last, the end."""
        out: list[tuple[str, int]] = []
        begun, squeeze = False, self.remove_extra_whitespaces
        after_space = squeeze
        for new, start in self._rewritten(text):
            if not begun:
                if squeeze and new == " ":
                    continue
                begun = True
                out += [(SPACE, start)] if self.add_dummy_prefix else []
            new = new.lstrip(" ") if after_space else new
            out += [(character, start) for character in new.replace(" ", SPACE)]
            after_space = squeeze and (new.endswith(" ") if new else after_space)
        while squeeze and out and out[-1][0] == SPACE:
            out.pop()
        return "".join(character for character, _ in out), [*(start for _, start in out), len(text)]

    def _rewritten(self, text: str) -> Iterator[tuple[str, int]]:
        """What each stretch of the text becomes, and where it begins: the longest in the table, or one character."""
        data, start, place = text.encode(), 0, 0
        while place < len(data):
            length, entry = self._longest(data, place)
            if length:
                end = self.texts.find(b"\0", entry)
                yield self.texts[entry : end if end >= 0 else None].decode("utf-8", "replace"), start
            else:
                length = len(text[start].encode())
                yield text[start], start
            start += sum(byte & 0xC0 != 0x80 for byte in data[place : place + length])  # characters, not bytes
            place += length

    def _longest(self, data: bytes, place: int) -> tuple[int, int]:
        """The length of the longest stretch from here on that the trie has, 0 for none, and its value.

        The trie is a double array (darts-clone): a unit holds its label, the offset of its children, and whether one of
        them is a value.
        """
        found = (0, 0)
        node = offset(self.units[0]) if self.units else 0
        for length, byte in enumerate(data[place : place + 64] if self.units else b"", start=1):
            node ^= byte
            if node >= len(self.units) or self.units[node] & 0x800000FF != byte:
                break
            unit = self.units[node]
            node ^= offset(unit)
            if unit >> 8 & 1 and node < len(self.units):
                found = length, self.units[node] & 0x7FFFFFFF
        return found


def offset(unit: int) -> int:
    """Where a unit's children are, counted from it."""
    return unit >> 10 << ((unit & 1 << 9) >> 6)


def read_normalizer(model: Model) -> Normalizer:
    """The normalizer that a model file describes. Its table: size of the trie, trie, texts that end in a zero."""
    table = model.charsmap
    size = struct.unpack_from("<I", table)[0] if len(table) >= 4 else 0
    if size % 4 or size > max(len(table) - 4, 0) or (table and not size):
        raise TokenizerError(f"{model.path}: its table of characters is damaged; download the file again")
    return Normalizer(
        units=struct.unpack_from(f"<{size // 4}I", table, 4) if table else (),
        texts=table[4 + size :],
        add_dummy_prefix=model.add_dummy_prefix,
        remove_extra_whitespaces=model.remove_extra_whitespaces,
    )
