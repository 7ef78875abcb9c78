"""The wire format of protocol buffers, as far as SentencePiece files need it: a message is a row of numbered fields.

The bytes come from strangers: what breaks the format is a ValueError that tells where, never a hang or a huge array.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # the wire types; 3 and 4, groups, are long out of use
SIZES = {FIXED64: 8, FIXED32: 4}


class Field(NamedTuple):
    """A field that a message may have: what we call it, how it is written, and how its value is read."""

    name: str
    wire: int
    read: Callable[[Any], Any]


def raw(name: str) -> Field:
    """A field of bytes, or one that is a message itself."""
    return Field(name, LENGTH, lambda value: value)


def text(name: str) -> Field:
    """A text in UTF-8."""
    return Field(name, LENGTH, lambda value: value.decode("utf-8"))


def integer(name: str) -> Field:
    """A whole number; a negative one is written as its two's complement in 64 bits."""
    return Field(name, VARINT, lambda value: value - 2**64 if value >= 2**63 else value)


def flag(name: str) -> Field:
    """True or false."""
    return Field(name, VARINT, bool)


def real(name: str) -> Field:
    """A number in float32."""
    return Field(name, FIXED32, lambda value: struct.unpack("<f", value)[0])


def message(data: bytes, known: Mapping[int, Field]) -> Iterator[tuple[str, Any]]:
    """Name and value of each field of a message that is among the known ones, in the order written."""
    for number, wire, value in fields(data):
        if (field := known.get(number)) is None:
            continue
        if wire != field.wire:
            raise ValueError(f"the field {field.name} has the wire type {wire}, expected {field.wire}")
        yield field.name, field.read(value)


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Number, wire type and value of each field of a message."""
    place = 0
    while place < len(data):
        key, place = varint(data, place)
        number, wire = key >> 3, key & 7
        if not 0 < number < 2**29:
            raise ValueError(f"byte {place}: a field has the number {number}")
        value: int | bytes
        if wire == VARINT:
            value, place = varint(data, place)
        else:
            size, place = varint(data, place) if wire == LENGTH else (SIZES.get(wire), place)
            if size is None:
                raise ValueError(f"byte {place}: a field has the wire type {wire}")
            if size > len(data) - place:
                raise ValueError(f"byte {place}: a field of {size} bytes, and {len(data) - place} are left")
            value, place = data[place : place + size], place + size
        yield number, wire, value


def varint(data: bytes, place: int) -> tuple[int, int]:
    """The number that begins at a place, and where it ends: seven bits a byte, lowest first, at most ten bytes."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError(f"byte {place}: the file ends inside a number")
        byte, place = data[place], place + 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & (2**64 - 1), place
    raise ValueError(f"byte {place}: a number of more than ten bytes")
