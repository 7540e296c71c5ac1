"""Samovar's own 4-bit weights, "int4", in NumPy: the definition that native kernels are tested against.

A row (one output channel) is a row of int8 with one float32 scale, and each group of 32 of its values is kept in 4 bits:

    value = s * (m * (c - z))

with a scale s >= 0 for the row, a multiplier m in 1..15 and a zero code z in 0..15 for the group, and a code c in 0..15 for
the value. m * max(z, 15 - z) <= 127, so m * (c - z) is an int8 in -127..127, and c = z is exactly zero. A group takes 16 bytes
of codes and one of m and z: 4.25 bits a weight. The zero code lets a group spend its 16 steps where its values lie: with z = 8
everywhere the error is above that of Q4_0, whose blocks choose by their sign which end is the longer (docs/log.md).

The quantiser is ours. It looks for the least sum of |x| * error^2 over a group, a weight in the manner of llama.cpp's
`make_qx_quants`, among four steps near (largest - smallest) / 15, each with the zero code that centres the codes on the group.

Arithmetic, to be followed bit for bit: every operation is float32 and rounded by itself (no fused multiply and add); `rint` is
to the nearest, halves to even; R[m] is float32(1 / m); LIMIT[z] is min(15, 127 // max(z, 15 - z)). For a row: amax = max |x|,
s = amax / 120, inv = 120 / amax. For a group:

    u[i] = x[i] * inv;  lo = min(0, min u);  hi = max(0, max u);  middle = (hi + lo) * 0.5;  m0 = rint((hi - lo) * R[15])
    for d in -1, 0, 1, 2:
        m = clamp(m0 + d, 1, 15);  z = clamp(rint(7.5 - middle * R[m]), 0, 15);  m = min(m, LIMIT[z])
        q[i] = clamp(rint(u[i] * R[m]), -z, 15 - z);  e[i] = u[i] - q[i] * m;  t[i] = (e[i] * e[i]) * |u[i]|
        error = sum of t: a[j] = t[j] + t[j + 16] for 16 lanes, then the upper half of the lanes added to the lower: 8, 4, 2, 1

Where columns have an importance, t[i] is multiplied with that of its column, as a last step.

The first (m, z) with the least error is kept, and c = q + z. A row whose amax is below 2^-110 becomes zeros: s = 0, m = 1,
z = 8, c = 8; a group of zeros gets those m, z and c by the rules above. Values must be finite: callers raise FormatError for a
row that holds an infinity or no number, and nothing is checked here.

Shape letters: N rows, K values in a row, G = K / 32 groups in a row, M groups of several rows one after the other, L = 32.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.errors import FormatError
from samovar.kernels import F32
from samovar.tensors.stored import StoredTensor

GROUP = 32
LARGEST = 120  # the integer of a row's extremum: 15 * 8, the most that m * (c - z) reaches with z = 7, 8, 0 or 15 alike
SMALLEST_AMAX = 2.0**-110  # 120 / amax stays finite, and s a normal number

_CHUNK_VALUES = 1 << 16  # keeps a chunk's temporaries in the L2 cache
_NEAR_STEPS = (-1, 0, 1, 2)

# 1 / m, by m; 0 is not used.
_RECIPROCALS = np.float32(1) / np.maximum(np.arange(16, dtype=np.float32), 1)
# The largest m whose product with c - z stays within int8, by z.
_LIMITS = np.array([min(15, 127 // max(z, 15 - z)) for z in range(16)], np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Int4Rows:
    """Quantised rows: codes in 0..15, multipliers in 1..15, zero codes in 0..15, scales that are zero or above."""

    codes_NK: NDArray[np.uint8]
    multipliers_NG: NDArray[np.uint8]
    zeros_NG: NDArray[np.uint8]
    scales_N: F32


def quantise_int4(w_NK: F32, importance_K: F32 | None = None) -> Int4Rows:
    """The rows in 4 bits; K is a multiple of 32 and every value finite. A row's result depends on that row alone.

    With an importance of columns, all positive, errors count by it as well.
    """
    n, k = w_NK.shape
    assert k % GROUP == 0, f"rows of {k} values; expected a multiple of {GROUP}"
    codes_NK = np.empty((n, k), np.uint8)
    multipliers_NG = np.empty((n, k // GROUP), np.uint8)
    zeros_NG = np.empty((n, k // GROUP), np.uint8)
    amax_N: F32 = np.maximum(w_NK.max(axis=1, initial=0), -w_NK.min(axis=1, initial=0))
    is_zero_N = amax_N < np.float32(SMALLEST_AMAX)
    inverse_N: F32 = np.divide(LARGEST, np.where(is_zero_N, 1, amax_N), dtype=np.float32)
    step = max(1, _CHUNK_VALUES // max(k, 1))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        u_ML: F32 = (w_NK[rows] * inverse_N[rows, None]).reshape(-1, GROUP)
        m_M, z_M = _search(u_ML, None if importance_K is None else importance_K.reshape(-1, GROUP))
        codes_NK[rows] = (_integers(u_ML, m_M, z_M) + z_M[:, None]).reshape(-1, k)
        multipliers_NG[rows] = m_M.reshape(-1, k // GROUP)
        zeros_NG[rows] = z_M.reshape(-1, k // GROUP)
    scales_N = np.where(is_zero_N, np.float32(0), amax_N / np.float32(LARGEST))
    return Int4Rows(codes_NK=codes_NK, multipliers_NG=multipliers_NG, zeros_NG=zeros_NG, scales_N=scales_N)


def not_finite(weight: StoredTensor) -> FormatError:
    """What callers raise for a weight that has no int4 form."""
    return FormatError(
        f"{weight.source}: tensor {weight.name!r} holds an infinity or no number; int4 needs finite values: the file "
        "is damaged; where it is not, use its weights as they are stored"
    )


def int8_rows(rows: Int4Rows) -> NDArray[np.int8]:
    """[N, K]: m * (c - z), exact."""
    grouped_NGL = rows.codes_NK.reshape(*rows.multipliers_NG.shape, GROUP).astype(np.int8)
    grouped_NGL -= rows.zeros_NG.astype(np.int8)[:, :, None]
    grouped_NGL *= rows.multipliers_NG.astype(np.int8)[:, :, None]
    return grouped_NGL.reshape(rows.codes_NK.shape)


def dequantise_int4(rows: Int4Rows) -> F32:
    """[N, K]: the values, each rounded once."""
    return int8_rows(rows).astype(np.float32) * rows.scales_N[:, None]


def _search(u_ML: F32, importance_GL: F32 | None) -> tuple[F32, F32]:
    """([M], [M]): multiplier and zero code of each group."""
    low_M, high_M = u_ML.min(axis=1, initial=0), u_ML.max(axis=1, initial=0)
    middle_M = (high_M + low_M) * np.float32(0.5)
    near_M = np.rint((high_M - low_M) * _RECIPROCALS[15])
    magnitude_ML = np.abs(u_ML)
    least_M = np.full(len(u_ML), np.inf, np.float32)
    best_m_M, best_z_M = np.empty_like(least_M), np.empty_like(least_M)
    for step in _NEAR_STEPS:
        m_M = np.clip(near_M + np.float32(step), 1, 15)
        z_M = np.clip(np.rint(np.float32(7.5) - middle_M * _RECIPROCALS[m_M.astype(np.intp)]), 0, 15)
        m_M = np.minimum(m_M, _LIMITS[z_M.astype(np.intp)])
        error_ML = u_ML - _integers(u_ML, m_M, z_M) * m_M[:, None]
        error_ML *= error_ML
        error_ML *= magnitude_ML
        if importance_GL is not None:
            error_ML.reshape(-1, *importance_GL.shape)[:] *= importance_GL
        error_M = _sum(error_ML)
        is_less_M = error_M < least_M
        for best_M, found_M in ((least_M, error_M), (best_m_M, m_M), (best_z_M, z_M)):
            np.copyto(best_M, found_M, where=is_less_M)
    return best_m_M, best_z_M


def _integers(u_ML: F32, m_M: F32, z_M: F32) -> F32:
    """[M, L]: the nearest c - z of each value."""
    q_ML = np.rint(u_ML * _RECIPROCALS[m_M.astype(np.intp)][:, None])
    return np.clip(q_ML, -z_M[:, None], np.float32(15) - z_M[:, None], out=q_ML)


def _sum(t_ML: F32) -> F32:
    """[M]: the sum of each group in the order of a vector of 16 lanes that is folded in halves."""
    width = GROUP
    while width > 1:
        width //= 2
        t_ML = t_ML[:, :width] + t_ML[:, width:]
    return t_ML[:, 0]
