"""float32 rows to the blocks of GGUF's quantised types, in NumPy: the definition that native kernels are tested against.

Layouts are those that `dequantise` reads; which values a block takes is decided in `quantise_search`. A row's result depends on
that row and the importance of its columns alone. Nothing is validated here: see `refusal`.

Shape letters: N rows, K values in a row, B blocks, J groups of a block, L values of a group.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from samovar.kernels import F32
from samovar.kernels.int4 import GROUP, quantise_int4
from samovar.kernels.quantise_search import (
    FINE_GRID,
    codes_from_zero,
    eight_bit_scale,
    half,
    inverse,
    one_scale,
    scale_and_minimum,
    search_weights,
    shared_scale,
    shared_scales,
)
from samovar.tensors.dtypes import INT4_ROWS, IQ4_NL, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, TensorType

U8 = NDArray[np.uint8]

LARGEST: Final = 65504.0  # what a scale in float16 reaches; no weight of a model comes near it
QUANTISED_TYPES: Final = (Q8_0, Q6_K, Q5_K, Q4_K, Q5_1, Q5_0, Q4_1, Q4_0, IQ4_NL)

_CHUNK_VALUES: Final = 1 << 16
# ggml's kvalues_iq4nl
_IQ4_VALUES: Final = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_IQ4_MIDDLES: Final = (_IQ4_VALUES[1:] + _IQ4_VALUES[:-1]) * np.float32(0.5)


def quantise(type_: TensorType, x_NK: F32, importance_K: F32 | None = None) -> U8:
    """[N, row bytes]: the rows in `type_`, one of QUANTISED_TYPES or INT4_ROWS, whose blocks divide K.

    The values are finite and at most LARGEST; importance is positive, around 1, and 1 for all columns where it is None.
    """
    n_rows, width = x_NK.shape
    assert width % type_.block_elements == 0, f"rows of {width} values; expected a multiple of {type_.block_elements}"
    if type_ is INT4_ROWS:
        return _int4_rows(x_NK, importance_K)
    w_K = np.ones(width, np.float32) if importance_K is None else importance_K
    out = np.empty((n_rows, width // type_.block_elements * type_.block_bytes), np.uint8)
    step, encode = max(1, _CHUNK_VALUES // width), _encoders()[type_.name]
    for start in range(0, n_rows, step):
        rows_NK = np.ascontiguousarray(x_NK[start : start + step], np.float32)
        w_NK = np.ascontiguousarray(np.broadcast_to(w_K, rows_NK.shape))
        with np.errstate(over="ignore", invalid="ignore"):  # of candidates, which are not chosen then
            x_BL, w_BL = (a_NK.reshape(-1, type_.block_elements) for a_NK in (rows_NK, w_NK))
            blocks = encode(x_BL, search_weights(x_BL, w_BL, is_steep=type_ is Q4_0))
        out[start : start + step] = blocks.reshape(len(rows_NK), -1)
    return out


def _int4_rows(x_NK: F32, importance_K: F32 | None) -> U8:
    """Blocks of Samovar's own int4, whose search is in `kernels.int4`."""
    rows = quantise_int4(np.ascontiguousarray(x_NK, np.float32), importance_K)
    n_rows, n_groups = rows.multipliers_NG.shape
    out = np.empty((n_rows, n_groups, INT4_ROWS.block_bytes), np.uint8)
    out[:, :, :4] = rows.scales_N.astype("<f4")[:, None].view(np.uint8)[:, None, :]
    out[:, :, 4] = rows.multipliers_NG | rows.zeros_NG << np.uint8(4)
    out[:, :, 5:] = _nibbles(rows.codes_NK.reshape(n_rows, n_groups, GROUP))
    return out.reshape(n_rows, -1)


def _encoders() -> dict[str, Callable[[F32, F32], U8]]:
    """Which function encodes which type: values and their weights [B, block_elements] to [B, block_bytes]."""
    return {
        "Q8_0": _q8_0,
        "Q5_1": _q5_1,
        "Q5_0": _q5_0,
        "Q4_1": _q4_1,
        "Q4_0": _q4_0,
        "IQ4_NL": _iq4_nl,
        "Q6_K": _q6_k,
        "Q5_K": _q5_k,
        "Q4_K": _q4_k,
    }


def _between(low: int, high: int) -> Callable[[F32], F32]:
    return lambda v: np.clip(np.rint(v), np.float32(low), np.float32(high))


def _iq4_values(v: F32) -> F32:
    """The nearest of the 16 values, the lower one of two that are as near."""
    found: F32 = _IQ4_VALUES[np.searchsorted(_IQ4_MIDDLES, v)]
    return found


def _halves(*scales_B: F32) -> U8:
    """[B, 2 for each]: the bytes of float16 numbers."""
    return (np.stack(scales_B, axis=1) + np.float32(0)).astype("<f2").view(np.uint8)  # + 0 leaves no negative zero


def _nibbles(q: U8) -> U8:
    """The first half of the last axis in low nibbles, the second in high ones."""
    width = q.shape[-1] // 2
    return q[..., :width] | q[..., width:] << np.uint8(4)


def _q8_0(x_BL: F32, w_BL: F32) -> U8:
    codes = _between(-127, 127)
    d_B = eight_bit_scale(x_BL, w_BL, codes)
    q_BL = codes(x_BL * inverse(d_B)[:, None]).astype(np.int8)
    return np.concatenate([_halves(d_B), q_BL.view(np.uint8)], axis=1)


def _q4_0(x_BL: F32, w_BL: F32) -> U8:
    codes = _between(-8, 7)
    d_B = half(one_scale(x_BL, w_BL, codes, -8, FINE_GRID))
    q_BL = codes(x_BL * inverse(d_B)[:, None]) + np.float32(8)
    return np.concatenate([_halves(d_B), _nibbles(q_BL.astype(np.uint8))], axis=1)


def _q5_0(x_BL: F32, w_BL: F32) -> U8:
    codes = _between(-16, 15)
    d_B = half(one_scale(x_BL, w_BL, codes, -16, FINE_GRID))
    q_BL = (codes(x_BL * inverse(d_B)[:, None]) + np.float32(16)).astype(np.uint8)
    return np.concatenate([_halves(d_B), _fifth_bits(q_BL), _nibbles(q_BL & np.uint8(15))], axis=1)


def _q4_1(x_BL: F32, w_BL: F32) -> U8:
    head, q_BL = _scale_minimum_codes(x_BL, w_BL, 15)
    return np.concatenate([head, _nibbles(q_BL)], axis=1)


def _q5_1(x_BL: F32, w_BL: F32) -> U8:
    head, q_BL = _scale_minimum_codes(x_BL, w_BL, 31)
    return np.concatenate([head, _fifth_bits(q_BL), _nibbles(q_BL & np.uint8(15))], axis=1)


def _scale_minimum_codes(x_BL: F32, w_BL: F32, top: int) -> tuple[U8, U8]:
    """([B, 4], [B, 32]): scale and minimum of a Q4_1 or Q5_1 block, and its codes."""
    d_B, m_B = (half(v_B) for v_B in scale_and_minimum(x_BL, w_BL, top))
    return _halves(d_B, -m_B), codes_from_zero(x_BL, d_B, m_B, top).astype(np.uint8)


def _fifth_bits(q_BL: U8) -> U8:
    """[B, 4]: bit i of the four bytes belongs to value i."""
    return np.packbits(q_BL >> np.uint8(4), axis=-1, bitorder="little")


def _iq4_nl(x_BL: F32, w_BL: F32) -> U8:
    d_B = half(one_scale(x_BL, w_BL, _iq4_values, -127, FINE_GRID))
    q_BL = np.searchsorted(_IQ4_MIDDLES, x_BL * inverse(d_B)[:, None])
    return np.concatenate([_halves(d_B), _nibbles(q_BL.astype(np.uint8))], axis=1)


def _q6_k(x_BL: F32, w_BL: F32) -> U8:
    """Low nibbles, upper two bits, scales of 16 groups, d: see `dequantise._q6_k`."""
    d_B, c_BJ, q_BJL = shared_scale(x_BL.reshape(-1, 16, 16), w_BL.reshape(-1, 16, 16), _between(-32, 31), -32)
    q = (q_BJL + np.float32(32)).astype(np.uint8).reshape(-1, 2, 4, 32)  # each half of the block as four runs of 32
    low = q[:, :, :2] & np.uint8(15) | q[:, :, 2:] << np.uint8(4)
    high = q >> np.uint8(4) << np.array([0, 2, 4, 6], np.uint8)[:, None]
    high_B = np.bitwise_or.reduce(high, axis=2)
    n = len(q)
    return np.concatenate(
        [low.reshape(n, 128), high_B.reshape(n, 64), c_BJ.astype(np.int8).view(np.uint8), _halves(d_B)], axis=1
    )


def _q4_k(x_BL: F32, w_BL: F32) -> U8:
    """d and e, packed scales and minima, nibbles."""
    head, q = _scales_and_codes(x_BL, w_BL, 15)
    return np.concatenate([head, _nibbles(q.reshape(-1, 4, 64)).reshape(-1, 128)], axis=1)


def _q5_k(x_BL: F32, w_BL: F32) -> U8:
    """As Q4_K, with the fifth bits before the nibbles: bit j of byte i is that of value i of group j."""
    head, q = _scales_and_codes(x_BL, w_BL, 31)
    fifth = np.bitwise_or.reduce(q >> np.uint8(4) << np.arange(8, dtype=np.uint8)[:, None], axis=1)
    nibbles = _nibbles((q & np.uint8(15)).reshape(-1, 4, 64)).reshape(-1, 128)
    return np.concatenate([head, fifth, nibbles], axis=1)


def _scales_and_codes(x_BL: F32, w_BL: F32, top: int) -> tuple[U8, U8]:
    """([B, 16], [B, 8, 32]): the head of a Q4_K or Q5_K block, and its codes."""
    d_B, e_B, c_BJ, m_BJ, q_BJL = shared_scales(x_BL.reshape(-1, 8, 32), w_BL.reshape(-1, 8, 32), top)
    c, m = c_BJ.astype(np.uint8), m_BJ.astype(np.uint8)
    four, low4 = np.uint8(4), np.uint8(15)
    first, second = (v[:, :4] | v[:, 4:] >> four << np.uint8(6) for v in (c, m))
    rest = c[:, 4:] & low4 | (m[:, 4:] & low4) << four
    return np.concatenate([_halves(d_B, e_B), first, second, rest], axis=1), q_BJL.astype(np.uint8)
