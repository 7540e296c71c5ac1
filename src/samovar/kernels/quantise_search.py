"""Which scales and codes store values of a block with the least weighted square error, in NumPy: what native kernels follow.

The searches are ours. The error is sum of w * (x - stored)^2, w as `search_weights` has it. Scales are tried from a grid
around the one that just covers the values; for the codes that a scale gives, the best scale follows by least squares. Blocks of
several groups then take the scale of all groups by least squares as well, and each group the integers near its own scale that
give the least error.

Arithmetic, to be followed bit for bit: every operation is float32 and rounded by itself (no fused multiply and add), in the
order written; `rint` is to the nearest, halves to even; `half` rounds to float16, to the nearest, and back; a sum over a group
is folded in halves (`folded`), sums over the groups of a block are in ascending order. Of equal candidates the first is kept.

Shape letters: M groups, L values of a group, B blocks, J groups of a block.
"""

from collections.abc import Callable, Iterable

import numpy as np

from samovar.kernels import F32

Codes = Callable[[F32], F32]
"""Values over scale, to the nearest codes."""

# How much finer or coarser than the covering scale, for one-scale groups; both signs are tried of each.
FINE_GRID = (0.82, 0.87, 0.92, 0.97, 1.02, 1.07, 1.12, 1.17, 1.22, 1.3, 1.45, 1.6)
SIX_BIT_GRID = (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2)
EIGHT_BIT_STEPS = tuple(range(-1, 9))  # 256ths by which the step is wider
# Part of the range that is covered, and which part of the rest is left out at the low end.
_RANGES = tuple((covered, low) for covered in (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05) for low in (0.25, 0.5, 0.75))
_FEWER_STEPS = range(8)  # by which the codes used are fewer than all: values that lie on few even steps are found again
_NEAR = (0, -1, 1)
_SMALLEST = np.float32(2**-100)
_MOST_DEPENDENT = np.float32(1e-6)


def folded(t_ML: F32) -> F32:
    """[M]: sums over the last axis, its upper half added to its lower until one is left."""
    width = t_ML.shape[-1]
    while width > 1:
        width //= 2
        t_ML = t_ML[..., :width] + t_ML[..., width:]
    sum_M: F32 = t_ML[..., 0]
    return sum_M


def half(x: F32) -> F32:
    """Rounded to float16."""
    return x.astype(np.float16).astype(np.float32)


def inverse(x: F32) -> F32:
    """1 / x, and 0 for magnitudes below 2^-100."""
    out = np.zeros_like(x)
    np.divide(np.float32(1), x, out=out, where=np.abs(x) >= _SMALLEST)
    return out


def quotient(a: F32, b: F32) -> F32:
    """a / b where b > 0, else 0."""
    out = np.zeros_like(a)
    np.divide(a, b, out=out, where=b > 0)
    return out


def extreme(x_ML: F32) -> F32:
    """[M]: the first value of the largest magnitude."""
    at = np.abs(x_ML).argmax(axis=-1)
    found_M: F32 = np.take_along_axis(x_ML, at[..., None], axis=-1)[..., 0]
    return found_M


def search_weights(x_BL: F32, importance_BL: F32, *, is_steep: bool) -> F32:
    """[B, L]: importance * s, or if steep importance * s^1.5, with s = sqrt(mean square of the block + x^2).

    s is in units of the block's largest magnitude, and 0 for zeros.

    What loses the least by importance alone is not what moves a model's probabilities the least (docs/log.md).
    """
    u_BL = x_BL * inverse(np.abs(x_BL).max(axis=1))[:, None]
    square_BL = u_BL * u_BL
    mean_B = folded(square_BL) * np.float32(1 / x_BL.shape[1])
    s_BL = np.sqrt(mean_B[:, None] + square_BL)
    w_BL: F32 = importance_BL * s_BL
    return w_BL * np.sqrt(s_BL) if is_steep else w_BL


def one_scale(x_ML: F32, w_ML: F32, codes: Codes, top: float, grid: Iterable[float]) -> F32:
    """[M]: the scale, of either sign, for x ~ scale * code; `top` is the code that an extreme takes on the covering scale."""
    base_M = np.float32(top) * inverse(extreme(x_ML))
    wx_ML = w_ML * x_ML
    best_M, scale_M = np.zeros_like(base_M), np.zeros_like(base_M)

    def attempt(inverse_M: F32) -> None:
        q_ML = codes(x_ML * inverse_M[:, None])
        a_M, b_M = folded(wx_ML * q_ML), folded(w_ML * q_ML * q_ML)
        s_M = quotient(a_M, b_M)
        gain_M = a_M * s_M
        is_better_M = gain_M > best_M
        np.copyto(best_M, gain_M, where=is_better_M)
        np.copyto(scale_M, s_M, where=is_better_M)

    for step in grid:
        attempt(base_M * np.float32(step))
        attempt(base_M * np.float32(-step))
    attempt(inverse(scale_M))
    return scale_M


def eight_bit_scale(x_ML: F32, w_ML: F32, codes: Codes) -> F32:
    """[M]: the scale, already rounded to float16, for x ~ scale * code with codes up to 127."""
    amax_M: F32 = np.abs(x_ML).max(axis=1)
    least_M, scale_M = np.full_like(amax_M, np.inf), np.zeros_like(amax_M)
    for step in EIGHT_BIT_STEPS:
        s_M = half(amax_M * np.float32((1 + step / 256) / 127))
        error_M = errors(x_ML, w_ML, codes(x_ML * inverse(s_M)[:, None]) * s_M[:, None])
        is_less_M = error_M < least_M
        np.copyto(least_M, error_M, where=is_less_M)
        np.copyto(scale_M, s_M, where=is_less_M)
    return scale_M


def errors(x_ML: F32, w_ML: F32, stored_ML: F32) -> F32:
    """[M]: the weighted square error."""
    e_ML: F32 = x_ML - stored_ML
    return folded(w_ML * e_ML * e_ML)


def shared_scale(x_BJL: F32, w_BJL: F32, codes: Codes, top: float) -> tuple[F32, F32, F32]:
    """(d [B], c [B, J], q [B, J, L]) for x ~ d * c * q: c from -128 to 127, d rounded to float16."""
    n_blocks, n_groups, width = x_BJL.shape
    s_BJ = one_scale(x_BJL.reshape(-1, width), w_BJL.reshape(-1, width), codes, top, SIX_BIT_GRID).reshape(n_blocks, n_groups)
    d_B = half(extreme(s_BJ) * np.float32(1 / -128))
    c_BJ = np.clip(np.rint(s_BJ * inverse(d_B)[:, None]), -128, 127)
    for is_last in (False, True):
        c_BJ, q_BJL = _near_scales(x_BJL, w_BJL, codes, d_B, c_BJ)
        if not is_last:
            t_BJL = q_BJL * c_BJ[:, :, None]
            wt_BJL = w_BJL * t_BJL
            better_B = half(quotient(_ascending(folded(wt_BJL * x_BJL)), _ascending(folded(wt_BJL * t_BJL))))
            d_B = np.where(better_B != 0, better_B, d_B)
    return d_B, c_BJ, q_BJL


def _near_scales(x_BJL: F32, w_BJL: F32, codes: Codes, d_B: F32, c_BJ: F32) -> tuple[F32, F32]:
    """(c [B, J], q [B, J, L]): the best of the integer scales next to c, and its codes."""
    least_BJ = np.full_like(c_BJ, np.inf)
    best_BJ, codes_BJL = np.zeros_like(c_BJ), np.zeros_like(x_BJL)
    for step in _NEAR:
        near_BJ = np.clip(c_BJ + np.float32(step), -128, 127)
        s_BJ = d_B[:, None] * near_BJ
        q_BJL = codes(x_BJL * inverse(s_BJ)[:, :, None])
        error_BJ = errors(x_BJL, w_BJL, q_BJL * s_BJ[:, :, None])
        is_less_BJ = error_BJ < least_BJ
        np.copyto(least_BJ, error_BJ, where=is_less_BJ)
        np.copyto(best_BJ, near_BJ, where=is_less_BJ)
        np.copyto(codes_BJL, q_BJL, where=is_less_BJ[:, :, None])
    return best_BJ, codes_BJL


def _ascending(t_BJ: F32) -> F32:
    """[B]: the sum over groups, the first first."""
    total_B = t_BJ[:, 0].copy()
    for j in range(1, t_BJ.shape[1]):
        total_B += t_BJ[:, j]
    return total_B


def scale_and_minimum(x_ML: F32, w_ML: F32, top: int) -> tuple[F32, F32]:
    """(scale [M], minimum [M]) for x ~ scale * code - minimum, neither negative; codes from 0 to `top`."""
    low_M, high_M = x_ML.min(axis=1, initial=0), x_ML.max(axis=1)
    range_M, inverse_top = high_M - low_M, np.float32(1 / top)
    wx_ML, sw_M = w_ML * x_ML, folded(w_ML)
    sx_M = folded(wx_ML)
    least_M = np.full_like(low_M, np.inf)
    scale_M, minimum_M = np.zeros_like(low_M), np.zeros_like(low_M)

    def attempt(s_M: F32, m_M: F32) -> None:
        q_ML = codes_from_zero(x_ML, s_M, m_M, top)
        wq_ML = w_ML * q_ML
        s_M, m_M = _two_parameters(sw_M, folded(wq_ML), folded(wq_ML * q_ML), sx_M, folded(wq_ML * x_ML))
        error_M = errors(x_ML, w_ML, q_ML * s_M[:, None] - m_M[:, None])
        is_less_M = error_M < least_M
        for best_M, found_M in ((least_M, error_M), (scale_M, s_M), (minimum_M, m_M)):
            np.copyto(best_M, found_M, where=is_less_M)

    for covered, low in _RANGES:
        shift_M = low_M + range_M * np.float32((1 - covered) * low)
        attempt(range_M * (np.float32(covered) * inverse_top), np.where(shift_M < 0, -shift_M, np.float32(0)))
    lowest_M = np.where(low_M < 0, -low_M, np.float32(0))
    for fewer in _FEWER_STEPS:
        attempt(range_M * np.float32(1 / (top - fewer)), lowest_M)
    attempt(scale_M.copy(), minimum_M.copy())
    return scale_M, minimum_M


def codes_from_zero(x_ML: F32, s_M: F32, m_M: F32, top: int) -> F32:
    """[M, L]: the nearest codes from 0 to `top` of x + m over s."""
    q_ML: F32 = np.clip(np.rint((x_ML + m_M[..., None]) * inverse(s_M)[..., None]), 0, np.float32(top))
    return q_ML


def _two_parameters(sw_M: F32, sq_M: F32, sqq_M: F32, sx_M: F32, sxq_M: F32) -> tuple[F32, F32]:
    """The scale and minimum with the least error for given codes q, out of the weighted sums of 1, q, q^2, x and xq."""
    det_M = sw_M * sqq_M - sq_M * sq_M
    s_M = quotient(sw_M * sxq_M - sq_M * sx_M, det_M)
    m_M = quotient(sq_M * sxq_M - sqq_M * sx_M, det_M)
    is_free_M = (det_M > 0) & (m_M >= 0)
    s_M = np.where(is_free_M, s_M, quotient(sxq_M, sqq_M))
    return np.where(s_M > 0, s_M, np.float32(0)), np.where(is_free_M, m_M, np.float32(0))


def shared_scales(x_BJL: F32, w_BJL: F32, top: int) -> tuple[F32, F32, F32, F32, F32]:
    """(d [B], e [B], c [B, J], m [B, J], q [B, J, L]) for x ~ d * c * q - e * m: c and m from 0 to 63, d and e float16."""
    n_blocks, n_groups, width = x_BJL.shape
    s_M, m_M = scale_and_minimum(x_BJL.reshape(-1, width), w_BJL.reshape(-1, width), top)
    s_BJ, m_BJ = s_M.reshape(n_blocks, n_groups), m_M.reshape(n_blocks, n_groups)
    d_B, e_B = (half(v_BJ.max(axis=1) * np.float32(1 / 63)) for v_BJ in (s_BJ, m_BJ))
    c_BJ, k_BJ = (_six_bits(v_BJ * inverse(u_B)[:, None]) for v_BJ, u_B in ((s_BJ, d_B), (m_BJ, e_B)))
    for is_last in (False, True):
        c_BJ, k_BJ, q_BJL = _near_pairs(x_BJL, w_BJL, top, (d_B, e_B), (c_BJ, k_BJ))
        if not is_last:
            d_B, e_B = _both_scales(x_BJL, w_BJL, (d_B, e_B), (c_BJ, k_BJ, q_BJL))
    return d_B, e_B, c_BJ, k_BJ, q_BJL


def _six_bits(x: F32) -> F32:
    q: F32 = np.clip(np.rint(x), 0, 63)
    return q


def _near_pairs(x_BJL: F32, w_BJL: F32, top: int, scales: tuple[F32, F32], near: tuple[F32, F32]) -> tuple[F32, F32, F32]:
    """(c [B, J], m [B, J], q [B, J, L]): the best of the pairs of integers next to the given ones, and its codes."""
    (d_B, e_B), (c_BJ, k_BJ) = scales, near
    least_BJ = np.full_like(c_BJ, np.inf)
    best_c_BJ, best_k_BJ, codes_BJL = np.zeros_like(c_BJ), np.zeros_like(c_BJ), np.zeros_like(x_BJL)
    for step_c in _NEAR:
        for step_k in _NEAR:
            near_c_BJ = np.clip(c_BJ + np.float32(step_c), 0, 63)
            near_k_BJ = np.clip(k_BJ + np.float32(step_k), 0, 63)
            s_BJ, m_BJ = d_B[:, None] * near_c_BJ, e_B[:, None] * near_k_BJ
            q_BJL = codes_from_zero(x_BJL, s_BJ, m_BJ, top)
            error_BJ = errors(x_BJL, w_BJL, q_BJL * s_BJ[:, :, None] - m_BJ[:, :, None])
            is_less_BJ = error_BJ < least_BJ
            for best_BJ, found_BJ in ((least_BJ, error_BJ), (best_c_BJ, near_c_BJ), (best_k_BJ, near_k_BJ)):
                np.copyto(best_BJ, found_BJ, where=is_less_BJ)
            np.copyto(codes_BJL, q_BJL, where=is_less_BJ[:, :, None])
    return best_c_BJ, best_k_BJ, codes_BJL


def _both_scales(x_BJL: F32, w_BJL: F32, scales: tuple[F32, F32], integers: tuple[F32, F32, F32]) -> tuple[F32, F32]:
    """(d [B], e [B]): those with the least error for given integers, or the given ones where that does not tell them."""
    (d_B, e_B), (c_BJ, k_BJ, q_BJL) = scales, integers
    t_BJL, wx_BJL = q_BJL * c_BJ[:, :, None], w_BJL * x_BJL
    wt_BJL = w_BJL * t_BJL
    tt_B, xt_B = _ascending(folded(wt_BJL * t_BJL)), _ascending(folded(wt_BJL * x_BJL))
    kk_B, tk_B = _ascending(folded(w_BJL) * k_BJ * k_BJ), _ascending(folded(wt_BJL) * k_BJ)
    xk_B = _ascending(folded(wx_BJL) * k_BJ)
    det_B = tt_B * kk_B - tk_B * tk_B
    new_d_B = half(quotient(kk_B * xt_B - tk_B * xk_B, det_B))
    new_e_B = half(quotient(tk_B * xt_B - tt_B * xk_B, det_B))
    is_told_B = (det_B > _MOST_DEPENDENT * tt_B * kk_B) & (new_d_B > 0) & (new_e_B >= 0)
    return np.where(is_told_B, new_d_B, d_B), np.where(is_told_B, new_e_B, e_B)
