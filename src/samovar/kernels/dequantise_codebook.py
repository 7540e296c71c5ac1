"""Stored blocks of the types IQ1 to IQ3, TQ, Q1_0 and Q2_0 to float32. See `kernels.dequantise`, which this is a part of.

In this file `n` is a number of blocks. `blocks` is uint8 [n, block_bytes]; `out` is float32 [n, block_elements].
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.kernels.block_fields import F32, U8, fields, half
from samovar.kernels.codebooks import codebook

_U16 = NDArray[np.uint16]
_U32 = NDArray[np.uint32]
_Index = NDArray[np.integer]

# Seven signs and an eighth that makes their number even.
_EVEN: Final = np.array([s | (s.bit_count() & 1) << 7 for s in range(128)], np.uint8)
_DELTA: Final = np.float32(0.125)  # by how much entries of IQ1 are shifted


def _words(blocks: U8, start: int, stop: int) -> _U16:
    """The little-endian 16-bit numbers in these bytes of each block."""
    found: _U16 = np.ascontiguousarray(blocks[:, start:stop]).view("<u2")
    return found


def _double_words(blocks: U8, start: int, stop: int) -> _U32:
    """The same of 32 bits."""
    found: _U32 = np.ascontiguousarray(blocks[:, start:stop]).view("<u4")
    return found


def _entries(name: str, index: _Index) -> F32:
    """[n, values]: the codebook's entries one after the other."""
    return np.take(codebook(name).entries(), index, axis=0, mode="clip").reshape(len(index), -1)


def _signs(packed: U8) -> F32:
    """[n, 8 * bytes]: -1 for a bit that is set, else 1."""
    return np.float32(1) - np.float32(2) * np.unpackbits(packed, axis=-1, bitorder="little").astype(np.float32)


def _half_odd(scales: _Index) -> F32:
    """s + 0.5."""
    return np.float32(0.5) + scales.astype(np.float32)


def _scaled(scales: F32, values: F32, out: F32) -> None:
    """Each of a block's scales [n, s] times the run of values that it is for."""
    np.multiply(scales[:, :, None], values.reshape(*scales.shape, -1), out=out.reshape(*scales.shape, -1))


def _iq2_xxs(blocks: U8, out: F32) -> None:
    """float16 d; 8 groups of 32: 4 indices of a byte, 4 times 7 signs, 4 bits of scale: d * (0.5 + s) / 4 * entry."""
    groups = blocks[:, 2:].reshape(len(blocks), 8, 8)
    index = groups[:, :, :4].reshape(len(blocks), -1)
    rest = _double_words(groups.reshape(-1, 8), 4, 8).reshape(-1, 8)
    db = half(blocks, 0) * _half_odd(rest >> 28) * np.float32(0.25)
    _scaled(db, _entries("IQ2_XXS", index), out)
    out *= _signs(_packed_signs(rest))


def _packed_signs(rest: _U32) -> U8:
    """[n, 32]: the bytes of signs out of the 4 times 7 bits of each of 8 groups."""
    sevens = (rest[:, :, None] >> np.array([0, 7, 14, 21], np.uint32)) & 127
    signs: U8 = _EVEN[sevens].reshape(len(rest), -1)
    return signs


def _iq2_xs(blocks: U8, out: F32) -> None:
    """float16 d; 32 words of 9 bits of index and 7 signs; 16 nibbles of scales, for 16 values each."""
    both = _words(blocks, 2, 66)
    db = half(blocks, 0) * _half_odd(fields(blocks[:, 66:], 1, 4, 2).reshape(-1, 16)) * np.float32(0.25)
    _scaled(db, _entries("IQ2_XS", both & 511), out)
    out *= _signs(_EVEN[both >> 9])


def _iq2_s(blocks: U8, out: F32) -> None:
    """float16 d; 32 low bytes of indices, 32 bytes of signs, 2 upper bits of each index; scales as IQ2_XS."""
    index = blocks[:, 2:34].astype(np.uint16) | fields(blocks[:, 66:74], 1, 2, 4).reshape(-1, 32).astype(np.uint16) << 8
    db = half(blocks, 0) * _half_odd(fields(blocks[:, 74:], 1, 4, 2).reshape(-1, 16)) * np.float32(0.25)
    _scaled(db, _entries("IQ2_S", index), out)
    out *= _signs(blocks[:, 34:66])


def _iq3_xxs(blocks: U8, out: F32) -> None:
    """float16 d; 64 indices of a byte, of entries of 4; signs and scales as IQ2_XXS: d * (0.5 + s) / 2 * entry."""
    rest = _double_words(blocks, 66, 98)
    db = half(blocks, 0) * _half_odd(rest >> 28) * np.float32(0.5)
    _scaled(db, _entries("IQ3_XXS", blocks[:, 2:66]), out)
    out *= _signs(_packed_signs(rest))


def _iq3_s(blocks: U8, out: F32) -> None:
    """float16 d; 64 low bytes of indices, 8 bytes of ninth bits, 32 of signs, 8 nibbles of scales: d * (2 s + 1) * entry."""
    ninth = np.unpackbits(blocks[:, 66:74], axis=-1, bitorder="little")
    index = blocks[:, 2:66].astype(np.uint16) | ninth.astype(np.uint16) << 8
    db = half(blocks, 0) * _odd(fields(blocks[:, 106:], 1, 4, 2).reshape(-1, 8))
    _scaled(db, _entries("IQ3_S", index), out)
    out *= _signs(blocks[:, 74:106])


def _odd(scales: _Index) -> F32:
    """2 s + 1."""
    return (2 * scales + 1).astype(np.float32)


def _shifts(is_down: NDArray[np.bool_]) -> F32:
    return np.where(is_down, -_DELTA, _DELTA)


def _iq1_s(blocks: U8, out: F32) -> None:
    """float16 d; 32 low bytes of indices; 8 words: 4 times 3 upper bits, 3 bits of scale, a sign.

    d * (2 s + 1) * (entry + 1/8), or - 1/8 where the sign is set.
    """
    high = _words(blocks, 34, 50)
    upper = (high[:, :, None] >> np.array([0, 3, 6, 9], np.uint16)) & np.uint16(7)
    index = blocks[:, 2:34].astype(np.uint16) | upper.reshape(-1, 32) << 8
    values = _entries("IQ1_S", index).reshape(-1, 8, 32) + _shifts(high >= 0x8000)[:, :, None]
    _scaled(half(blocks, 0) * _odd((high >> 12) & 7), values, out)


def _iq1_m(blocks: U8, out: F32) -> None:
    """32 low bytes of indices; 32 nibbles: 3 upper bits and a sign; 4 words: 4 times 3 bits of scales, 4 bits of float16 d."""
    words = _words(blocks, 48, 56)
    quarters = (words >> 12) << np.array([0, 4, 8, 12], np.uint16)
    d = np.bitwise_or.reduce(quarters, axis=1, keepdims=True).view(np.float16).astype(np.float32)
    scales = ((words[:, :, None] >> np.array([0, 3, 6, 9], np.uint16)) & 7).reshape(-1, 16)
    high = fields(blocks[:, 32:48], 1, 4, 2).reshape(-1, 32)
    index = blocks[:, :32].astype(np.uint16) | (high & np.uint8(7)).astype(np.uint16) << 8
    values = _entries("IQ1_M", index).reshape(-1, 32, 8) + _shifts(high >= 8)[:, :, None]
    _scaled(d * _odd(scales), values, out)


def _minus_one(codes: U8) -> F32:
    return codes.astype(np.float32) - np.float32(1)


def _tq1_0(blocks: U8, out: F32) -> None:
    """Digits to the base of 3 as fractions of 256, 5 to each of 48 bytes, 4 to each of 4; float16 d: d * (digit - 1)."""
    runs = ((0, 32, 5), (32, 48, 5), (48, 52, 4))
    parts = [
        (blocks[:, None, start:stop] * np.array([3**i for i in range(digits)], np.uint8)[:, None]).reshape(len(blocks), -1)
        for start, stop, digits in runs
    ]
    digits = (np.concatenate(parts, axis=1).astype(np.uint16) * 3 >> 8).astype(np.uint8)
    np.multiply(half(blocks, 52), _minus_one(digits), out=out)


def _tq2_0(blocks: U8, out: F32) -> None:
    """2-bit codes in runs of 32 bytes, float16 d: d * (code - 1)."""
    np.multiply(half(blocks, 64), _minus_one(fields(blocks[:, :64], 32, 2, 4).reshape(len(blocks), -1)), out=out)


def _q1_0(blocks: U8, out: F32) -> None:
    """float16 d, 128 bits: d where one is set, else -d."""
    np.multiply(half(blocks, 0), -_signs(blocks[:, 2:]), out=out)


def _q2_0(blocks: U8, out: F32) -> None:
    """float16 d, 64 codes of 2 bits in order: d * (code - 1)."""
    np.multiply(half(blocks, 0), _minus_one(fields(blocks[:, 2:], 1, 2, 4).reshape(len(blocks), -1)), out=out)


CODEBOOK_DECODERS: Final[dict[str, Callable[[U8, F32], None]]] = {
    "IQ1_S": _iq1_s,
    "IQ1_M": _iq1_m,
    "IQ2_XXS": _iq2_xxs,
    "IQ2_XS": _iq2_xs,
    "IQ2_S": _iq2_s,
    "IQ3_XXS": _iq3_xxs,
    "IQ3_S": _iq3_s,
    "TQ1_0": _tq1_0,
    "TQ2_0": _tq2_0,
    "Q1_0": _q1_0,
    "Q2_0": _q2_0,
}
