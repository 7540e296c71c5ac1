"""Metadata values of GGUF as the bytes that stand in a file: a type number, and what the type says.

`EncodedValue` keeps the type that a value has in its source, or that llama.cpp expects of a key, where a Python number alone
does not tell: 1 can be any of eight types. Source: the GGUF specification (docs/gguf.md of ggml).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from samovar.formats.gguf_header import MetadataValue

Kind: TypeAlias = Literal["u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "u64", "i64", "f64"]

_ARRAY: Final = 9
_KINDS: Final[dict[Kind, tuple[int, str]]] = {
    "u8": (0, "<u1"), "i8": (1, "<i1"), "u16": (2, "<u2"), "i16": (3, "<i2"), "u32": (4, "<u4"), "i32": (5, "<i4"),
    "f32": (6, "<f4"), "bool": (7, "|b1"), "string": (8, ""), "u64": (10, "<u8"), "i64": (11, "<i8"), "f64": (12, "<f8"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class EncodedValue:
    """A value's type number (32 bits) and bytes, as they stand in a file after the key."""

    raw: bytes


def encode_text(text: str) -> bytes:
    """A 64-bit length and the bytes of UTF-8."""
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def encode_as(kind: Kind, value: float | str) -> EncodedValue:
    """One value of a type. Raises OverflowError for a number that the type does not hold."""
    return EncodedValue(struct.pack("<I", _KINDS[kind][0]) + _elements(kind, [value]))


def encode_list(kind: Kind, values: Sequence[object]) -> EncodedValue:
    """An array whose elements are of a type; it may be empty. Raises as `encode_as`."""
    return EncodedValue(struct.pack("<IIQ", _ARRAY, _KINDS[kind][0], len(values)) + _elements(kind, values))


def encode(value: "MetadataValue | EncodedValue") -> EncodedValue:
    """A value in the type that llama.cpp expects of its own keys.

    Whole numbers take 32 bits, unsigned where they are not negative (signed in lists), 64 where they need them; fractions
    are 32-bit floats. Lists hold values of one kind and are not empty, since an empty one does not tell its type.
    """
    if isinstance(value, EncodedValue):
        return value
    if not isinstance(value, list):
        return encode_as(_kind(value, is_element=False), value)
    if isinstance(value[0], list):
        inner = [encode(element).raw[4:] for element in value]
        return EncodedValue(struct.pack("<IIQ", _ARRAY, _ARRAY, len(value)) + b"".join(inner))
    kinds = {_kind(element, is_element=True) for element in value}
    return encode_list("i64" if kinds == {"i32", "i64"} else kinds.pop(), value)


def _kind(value: object, *, is_element: bool) -> Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if -(1 << 31) <= value < 1 << 31:
            return "i32" if is_element or value < 0 else "u32"
        return "u32" if 0 <= value < 1 << 32 and not is_element else "i64" if value < 1 << 63 else "u64"
    if isinstance(value, float):
        return "f32"
    assert isinstance(value, str), type(value)
    return "string"


def _elements(kind: Kind, values: Sequence[object]) -> bytes:
    if kind == "string":
        return b"".join(encode_text(str(value)) for value in values)
    return np.array(values, _KINDS[kind][1]).tobytes()
