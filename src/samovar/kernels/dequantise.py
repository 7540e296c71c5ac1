"""Stored blocks to float32, in NumPy, for every storage type. The definition that native kernels are tested against.

The arithmetic is that of GGUF's reference implementation (the `gguf` package, `quants.py`), operation by operation in
float32, so results are equal bit for bit. Nothing is validated here: callers check sizes.

In this file `n` is a number of blocks. `blocks` is uint8 [n, block_bytes]; `out` is float32 [n, block_elements] and is
written in place.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from samovar.kernels.block_fields import F32, U8, fields, half, nibbles
from samovar.kernels.dequantise_codebook import CODEBOOK_DECODERS
from samovar.tensors.dtypes import TensorType
from samovar.tensors.stored import StoredTensor

_Decoder = Callable[[U8, F32], None]

_CHUNK_ELEMENTS = 1 << 16  # keeps a chunk's temporaries in the L2 cache

# The 16 values of the non-linear 4-bit types (ggml's kvalues_iq4nl), and those of E2M1 floats, doubled (kvalues_mxfp4).
_IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def dequantise(type: TensorType, data: NDArray[np.uint8]) -> NDArray[np.float32]:  # noqa: A002
    """Return the values of `data`, a flat run of whole blocks, as a flat float32 array of its own.

    Scales that are infinite or not a number give values that are, without a warning. Types that have a codebook read it from
    the package `gguf` the first time; raises SamovarError where that is not installed.
    """
    n = data.size // type.block_bytes
    blocks = data.reshape(n, type.block_bytes)
    out = np.empty((n, type.block_elements), np.float32)
    decode = _decoders()[type.name]
    step = _CHUNK_ELEMENTS // type.block_elements
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, n, step):
            decode(blocks[start : start + step], out[start : start + step])
    return out.reshape(-1)


def _decoders() -> dict[str, _Decoder]:
    """Which function decodes which type."""
    return {
        "F32": _f32,
        "F16": _f16,
        "BF16": _bf16,
        "Q4_0": _q4_0,
        "Q4_1": _q4_1,
        "Q5_0": _q5_0,
        "Q5_1": _q5_1,
        "Q8_0": _q8_0,
        "Q2_K": _q2_k,
        "Q3_K": _q3_k,
        "Q4_K": _q4_k,
        "Q5_K": _q5_k,
        "Q6_K": _q6_k,
        "IQ4_NL": _iq4_nl,
        "IQ4_XS": _iq4_xs,
        "MXFP4": _mxfp4,
        "NVFP4": _nvfp4,
        **CODEBOOK_DECODERS,
        "INT4": _int4_rows,
        **{name: decode for kind, decode in _GROUPED.items() for name in (f"{kind}_G{size}" for size in (32, 64, 128))},
    }


def _f32(blocks: U8, out: F32) -> None:
    """Copies the bits, so that the result is aligned and owned."""
    out.view(np.uint8).reshape(-1)[:] = blocks.reshape(-1)


def _f16(blocks: U8, out: F32) -> None:
    """Widens; exact."""
    out[:] = half(blocks, 0)


def _bf16(blocks: U8, out: F32) -> None:
    """The upper half of a float32."""
    np.left_shift(np.ascontiguousarray(blocks).view("<u2"), 16, out=out.view(np.uint32), dtype=np.uint32)


def _q4_0(blocks: U8, out: F32) -> None:
    """float16 d, 16 bytes of nibbles: d * (q - 8)."""
    out[:] = nibbles(blocks[:, 2:], 16).reshape(out.shape)
    out -= np.float32(8)
    out *= half(blocks, 0)


def _q4_1(blocks: U8, out: F32) -> None:
    """float16 d and m, 16 bytes of nibbles: d * q + m."""
    out[:] = nibbles(blocks[:, 4:], 16).reshape(out.shape)
    out *= half(blocks, 0)
    out += half(blocks, 2)


def _five_bits(high: U8, low: U8) -> U8:
    """[n, 32]: nibbles with a fifth bit each; bit i of the four `high` bytes belongs to value i."""
    q = nibbles(low, 16).reshape(-1, 32)
    q |= np.unpackbits(high, axis=-1, bitorder="little") << np.uint8(4)
    return q


def _q5_0(blocks: U8, out: F32) -> None:
    """float16 d, 4 bytes of fifth bits, 16 bytes of nibbles: d * (q - 16)."""
    out[:] = _five_bits(blocks[:, 2:6], blocks[:, 6:])
    out -= np.float32(16)
    out *= half(blocks, 0)


def _q5_1(blocks: U8, out: F32) -> None:
    """float16 d and m, 4 bytes of fifth bits, 16 bytes of nibbles: d * q + m."""
    out[:] = _five_bits(blocks[:, 4:8], blocks[:, 8:])
    out *= half(blocks, 0)
    out += half(blocks, 2)


def _q8_0(blocks: U8, out: F32) -> None:
    """float16 d, 32 signed bytes: d * q."""
    out[:] = blocks[:, 2:].view(np.int8)
    out *= half(blocks, 0)


def _q2_k(blocks: U8, out: F32) -> None:
    """16 groups of 16: nibble scale and minimum each, 2-bit values, float16 d and dmin at the end: d*s * q - dmin*m."""
    scales = (half(blocks, 80) * (blocks[:, :16] & np.uint8(15)).astype(np.float32))[:, :, None]
    minima = (half(blocks, 82) * (blocks[:, :16] >> np.uint8(4)).astype(np.float32))[:, :, None]
    groups = out.reshape(-1, 16, 16)
    groups[:] = fields(blocks[:, 16:80], 32, 2, 4).reshape(groups.shape)
    groups *= scales
    groups -= minima


def _q3_k(blocks: U8, out: F32) -> None:
    """16 groups of 16: a high bit (set means no offset), 2 low bits, 6-bit scales less 32, float16 d: d*s * q."""
    scales = nibbles(blocks[:, 96:104], 8).reshape(-1, 16) | fields(blocks[:, 104:108], 4, 2, 4).reshape(-1, 16) << np.uint8(4)
    groups = out.reshape(-1, 16, 16)
    q = fields(blocks[:, 32:96], 32, 2, 4).reshape(groups.shape)
    q |= fields(blocks[:, :32], 32, 1, 8).reshape(groups.shape) << np.uint8(2)
    groups[:] = q
    groups -= np.float32(4)
    groups *= (half(blocks, 108) * (scales.astype(np.float32) - np.float32(32)))[:, :, None]


def _six_bit_scales(packed: U8) -> tuple[U8, U8]:
    """([n, 8], [n, 8]): scales and minima out of the 12 bytes of Q4_K and Q5_K.

    The first four of each lie in the low 6 bits of bytes 0-3 and 4-7. Bytes 8-11 hold the low nibbles of the last four
    (scale low, minimum high), whose upper 2 bits are the top bits of bytes 0-3 and 4-7.
    """
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    low6, low4, two, four = np.uint8(63), np.uint8(15), np.uint8(2), np.uint8(4)
    top2 = np.uint8(48)
    scales = np.concatenate([first & low6, (rest & low4) | ((first >> two) & top2)], axis=1)
    minima = np.concatenate([second & low6, (rest >> four) | ((second >> two) & top2)], axis=1)
    return scales, minima


def _scale_and_shift(blocks: U8, groups: F32) -> None:
    """Apply the scales and minima at the head of Q4_K and Q5_K blocks to [n, 8, 32] values in place."""
    scales, minima = _six_bit_scales(blocks[:, 4:16])
    groups *= (half(blocks, 0) * scales.astype(np.float32))[:, :, None]
    groups -= (half(blocks, 2) * minima.astype(np.float32))[:, :, None]


def _q4_k(blocks: U8, out: F32) -> None:
    """8 groups of 32: float16 d and dmin, 6-bit scales and minima, nibbles: d*s * q - dmin*m."""
    groups = out.reshape(-1, 8, 32)
    groups[:] = nibbles(blocks[:, 16:], 32).reshape(groups.shape)
    _scale_and_shift(blocks, groups)


def _q5_k(blocks: U8, out: F32) -> None:
    """As Q4_K, with 32 bytes of fifth bits before the nibbles."""
    groups = out.reshape(-1, 8, 32)
    q = nibbles(blocks[:, 48:], 32).reshape(groups.shape)
    q |= fields(blocks[:, 16:48], 32, 1, 8).reshape(groups.shape) << np.uint8(4)
    groups[:] = q
    _scale_and_shift(blocks, groups)


def _q6_k(blocks: U8, out: F32) -> None:
    """16 groups of 16: nibbles, 2 upper bits, signed byte scales, float16 d: d*s * (q - 32)."""
    groups = out.reshape(-1, 16, 16)
    q = nibbles(blocks[:, :128], 64).reshape(groups.shape)
    q |= fields(blocks[:, 128:192], 32, 2, 4).reshape(groups.shape) << np.uint8(4)
    groups[:] = q
    groups -= np.float32(32)
    groups *= (half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32))[:, :, None]


def _look_up(values: tuple[int, ...], index: U8, out: F32) -> None:
    """out = values[index]."""
    np.take(np.array(values, np.float32), index.reshape(out.shape), out=out, mode="clip")


def _iq4_nl(blocks: U8, out: F32) -> None:
    """float16 d, 16 bytes of nibbles into a table: d * table[q]."""
    _look_up(_IQ4_VALUES, nibbles(blocks[:, 2:], 16), out)
    out *= half(blocks, 0)


def _iq4_xs(blocks: U8, out: F32) -> None:
    """8 groups of 32: float16 d, upper 2 and lower 4 bits of scales less 32, nibbles into a table: d*s * table[q]."""
    scales = nibbles(blocks[:, 4:8], 1).reshape(-1, 8) | fields(blocks[:, 2:4], 1, 2, 4).reshape(-1, 8) << np.uint8(4)
    groups = out.reshape(-1, 8, 32)
    _look_up(_IQ4_VALUES, nibbles(blocks[:, 8:], 16), groups)
    groups *= (half(blocks, 0) * (scales.astype(np.float32) - np.float32(32)))[:, :, None]


def _mxfp4(blocks: U8, out: F32) -> None:
    """E8M0 exponent byte e (scale 2^(e - 127)), 16 bytes of E2M1 nibbles. The table is doubled, so the scale is halved."""
    e = blocks[:, :1].astype(np.uint32)
    # Below 2 the halved scale is a subnormal float32, which has its bit in the mantissa.
    scale_bits = np.where(e < 2, np.uint32(1 << 21) << e, (e - np.uint32(1)) << np.uint32(23))
    _look_up(_E2M1_DOUBLED, nibbles(blocks[:, 1:], 16), out)
    out *= scale_bits.view(np.float32)


def _nvfp4(blocks: U8, out: F32) -> None:
    """4 groups of 16: an unsigned E4M3 scale each, then E2M1 nibbles. The table is doubled, so the scale is halved."""
    byte = blocks[:, :4]
    exponent = (byte >> np.uint8(3)).astype(np.int32) & 15
    mantissa = (byte & np.uint8(7)).astype(np.int32)
    significand = np.where(exponent == 0, mantissa, mantissa + 8).astype(np.float32)
    # Value: significand / 8 * 2^(exponent - 7), subnormals with exponent 1; one more power of two for the halving.
    scales = np.ldexp(significand, np.maximum(exponent, 1) - 11)
    scales[byte == 0x7F] = 0  # the NaN code; the reference reads it as zero
    groups = out.reshape(-1, 4, 16)
    _look_up(_E2M1_DOUBLED, nibbles(blocks[:, 4:], 8), groups)
    groups *= scales[:, :, None]


def _int4_rows(blocks: U8, out: F32) -> None:
    """float32 scale, multiplier and zero code in a byte, 16 bytes of nibbles: scale * (multiplier * (q - zero))."""
    multiplier = (blocks[:, 4:5] & np.uint8(15)).astype(np.float32)
    zero = (blocks[:, 4:5] >> np.uint8(4)).astype(np.float32)
    out[:] = nibbles(blocks[:, 5:], 16).reshape(out.shape)
    out -= zero
    out *= multiplier
    out *= np.ascontiguousarray(blocks[:, :4]).view("<f4")


def dequantise_matrix(weight: StoredTensor) -> F32:
    """[N, D]: the values of a matrix, its columns in the order of its inputs."""
    w_ND = dequantise(weight.type, weight.data).reshape(weight.shape)
    if weight.input_order is None:
        return w_ND
    out_ND = np.empty_like(w_ND)
    out_ND[:, weight.input_order] = w_ND
    return out_ND


def float8_values(name: str) -> F32:
    """[256]: the value of each byte in E4M3 (without infinities; 0x7F and 0xFF are no numbers) or E5M2.

    Source: Micikevicius et al., "FP8 formats for deep learning", 2022, arXiv 2209.05433.
    """
    byte = np.arange(256, dtype=np.uint16)
    if name == "E5M2":
        return (byte << 8).view(np.float16).astype(np.float32)
    values: F32 = (((byte & 0x80) << 8) | ((byte & 0x7F) << 7)).view(np.float16).astype(np.float32) * np.float32(256)
    values[[0x7F, 0xFF]] = np.nan
    return values


def _scale(blocks: U8) -> F32:
    """[n, 1]: the float32 at the head of each block of a grouped type."""
    return np.ascontiguousarray(blocks[:, :4]).view("<f4").astype(np.float32)


def _u4(blocks: U8, out: F32) -> None:
    """float32 s, byte z, nibbles in runs of 16 bytes: s * (q - z)."""
    out[:] = nibbles(blocks[:, 5:], 16).reshape(out.shape)
    out -= blocks[:, 4:5].astype(np.float32)
    out *= _scale(blocks)


def _u8(blocks: U8, out: F32) -> None:
    """float32 s, float16 z, bytes: s * (q - z)."""
    out[:] = blocks[:, 6:]
    out -= half(blocks, 4)
    out *= _scale(blocks)


def _e4m3(blocks: U8, out: F32) -> None:
    """float32 s, 8-bit floats: s * value."""
    np.take(float8_values("E4M3"), blocks[:, 4:], out=out, mode="clip")
    out *= _scale(blocks)


def _e5m2(blocks: U8, out: F32) -> None:
    """As E4M3."""
    np.take(float8_values("E5M2"), blocks[:, 4:], out=out, mode="clip")
    out *= _scale(blocks)


_GROUPED: dict[str, _Decoder] = {"U4": _u4, "U8": _u8, "E4M3": _e4m3, "E5M2": _e5m2}
