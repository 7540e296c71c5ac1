"""What the operations of gated delta net layers compute, in NumPy; see `samovar.kernels.Ops`.

Source: Gated Delta Networks (Yang et al., 2024, arXiv 2412.06464), section 3, in the recurrent form.
"""

from collections.abc import Iterator

import numpy as np

from samovar.kernels import F32, DeltaNet, Spans, States

_NORM_EPS = np.float32(1e-6)


def convolve(x_TM: F32, net: DeltaNet, states: States, spans: Spans) -> F32:
    """See `Ops.convolve`: each sequence's inputs behind those that its slot keeps."""
    out_TM = np.empty_like(x_TM)
    n_kept = len(net.taps_JM) - 1
    for slot, rows, is_first in _sequences(spans):
        before = states.inputs_ZJM[slot]
        line = np.concatenate([np.zeros_like(before) if is_first else before, x_TM[rows]])
        n_rows = len(line) - n_kept
        total = np.zeros((n_rows, x_TM.shape[1]), np.float32)
        for tap, weight_M in enumerate(net.taps_JM):
            total += weight_M * line[tap : tap + n_rows]
        with np.errstate(over="ignore"):  # exp(-total) = inf gives the right limit, 0
            out_TM[rows] = total / (1 + np.exp(-total))
        states.inputs_ZJM[slot] = line[n_rows:]
    return out_TM


def delta_rule(x_TM: F32, gates_TM: F32, net: DeltaNet, states: States, spans: Spans) -> F32:
    """See `Ops.delta_rule`: token by token, all heads at once."""
    _, n_heads, d_key, d_value = states.memory_ZHKU.shape
    d_keys = (x_TM.shape[1] - n_heads * d_value) // 2
    q_THK, k_THK = (
        np.repeat(_unit(part.reshape(len(x_TM), -1, d_key)), n_heads * d_key // d_keys, axis=1)
        for part in (x_TM[:, :d_keys], x_TM[:, d_keys : 2 * d_keys])
    )
    q_THK = q_THK / np.float32(d_key**0.5)
    v_THU = x_TM[:, 2 * d_keys :].reshape(len(x_TM), n_heads, d_value)
    with np.errstate(over="ignore"):
        beta_TH = 1 / (1 + np.exp(-gates_TM[:, :n_heads]))
    decay_TH = np.exp(-net.rate_H * np.logaddexp(np.float32(0), gates_TM[:, n_heads:] + net.bias_H))
    out_THU = np.empty_like(v_THU)
    for slot, rows, is_first in _sequences(spans):
        memory_HKU = states.memory_ZHKU[slot]
        if is_first:
            memory_HKU[:] = 0
        for t in range(rows.start, rows.stop):
            memory_HKU *= decay_TH[t, :, None, None]
            found_HU = np.matmul(k_THK[t, :, None, :], memory_HKU)[:, 0]
            change_HU = (v_THU[t] - found_HU) * beta_TH[t, :, None]
            memory_HKU += k_THK[t, :, :, None] * change_HU[:, None, :]
            out_THU[t] = np.matmul(q_THK[t, :, None, :], memory_HKU)[:, 0]
    return out_THU


def _sequences(spans: Spans) -> Iterator[tuple[int, slice, bool]]:
    """Of each sequence its slot, its rows, and whether the first of them is its first token."""
    for s, slot in enumerate(spans.states_S.tolist()):
        yield slot, slice(int(spans.row_starts[s]), int(spans.row_starts[s + 1])), not spans.positions[s]


def _unit(x_TGK: F32) -> F32:
    unit: F32 = x_TGK / np.sqrt(np.sum(x_TGK * x_TGK, axis=-1, keepdims=True) + _NORM_EPS)
    return unit
