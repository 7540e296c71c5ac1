"""The operations in plain NumPy: their definition, their test, and the fallback where no native build exists.

Quantised weights stay in their storage type and are dequantised a panel of rows at a time on every use, in float32. Slow on
purpose: nothing here is clever. Shape letters: see `samovar.kernels`.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from samovar.kernels import (
    F32,
    PAGE_TOKENS,
    Activation,
    DeltaNet,
    Experts,
    KvPages,
    Linear,
    LinearStack,
    Spans,
    Stack,
    States,
    WeightForm,
)
from samovar.kernels.dequantise import dequantise
from samovar.kernels.finite import has_finite_scales, scales_not_finite
from samovar.kernels.int4 import dequantise_int4, not_finite, quantise_int4
from samovar.kernels.reference_delta_net import convolve, delta_rule
from samovar.kernels.reference_sample import choose
from samovar.kernels.sample_batch import SampleBatch, refuse_failed
from samovar.tensors import dtypes
from samovar.tensors.dtypes import TensorType
from samovar.tensors.stored import StoredTensor

_PANEL_ELEMENTS = 1 << 24  # 64 MiB of float32 at a time
_GELU_LINEAR = np.float32(-2 * (2 / np.pi) ** 0.5)
_GELU_CUBIC = np.float32(_GELU_LINEAR * 0.044715)


@dataclass(frozen=True, slots=True)
class StoredLinear:
    """A linear layer whose weights stay as they lie on disk."""

    tensor: StoredTensor

    @property
    def n_out(self) -> int:
        """Rows of the weight."""
        return self.tensor.shape[0]

    @property
    def n_in(self) -> int:
        """Columns of the weight."""
        return self.tensor.shape[1]

    @property
    def size_bytes(self) -> int:
        """Bytes of the stored form."""
        return self.tensor.size_bytes


class ReferenceOps:
    """Implements `samovar.kernels.Ops` without native code."""

    isa = "numpy"
    n_threads = 1

    def pack(self, weight: StoredTensor, form: WeightForm = "stored") -> StoredLinear:
        """Keep the stored form, or float32 values that are rounded to int4. Raises FormatError for infinite scales."""
        if form == "stored" or weight.type is dtypes.INT4_ROWS:
            if not has_finite_scales(weight):
                raise scales_not_finite(weight)
            return StoredLinear(weight)
        w_NK = dequantise(weight.type, weight.data).reshape(weight.shape)
        if not np.isfinite(w_NK).all():
            raise not_finite(weight)
        data = dequantise_int4(quantise_int4(w_NK)).reshape(-1).view(np.uint8)
        return StoredLinear(replace(weight, type=dtypes.F32, data=data))

    def pack_stack(self, tensors: tuple[StoredTensor, ...], form: WeightForm = "stored") -> LinearStack:
        """As `pack`, expert by expert."""
        weights = [w for t in tensors for w in ([t] if len(t.shape) == 2 else [t.entry(i) for i in range(t.shape[0])])]
        return LinearStack(tuple(self.pack(weight, form) for weight in weights))

    def quantise(self, type_: TensorType, x_NK: F32, importance_K: F32) -> NDArray[np.uint8]:
        """See `kernels.quantise`."""
        from samovar.kernels.quantise import quantise  # no model that is loaded needs it

        return quantise(type_, x_NK, importance_K)

    def embed(self, table: StoredTensor, ids_T: NDArray[np.int64], scale: float = 1.0) -> F32:
        """Dequantise the rows asked for."""
        out_TD = dequantise(table.type, table.rows()[ids_T].reshape(-1)).reshape(len(ids_T), table.shape[1])
        return out_TD if scale == 1.0 else out_TD * np.float32(scale)

    def take_rows(self, x_TD: F32, rows_S: NDArray[np.int64]) -> F32:
        """Index the rows."""
        return x_TD[rows_S]

    def linear(
        self,
        x_TD: F32,
        weight: Linear,
        bias_N: F32 | None = None,
        *,
        gate_TD: F32 | None = None,
        activation: Activation = "silu",
        residual_TN: F32 | None = None,
    ) -> F32:
        """The product, then bias, then residual."""
        if gate_TD is not None:
            x_TD = self.silu_gate(gate_TD, x_TD) if activation == "silu" else self.gelu_gate(gate_TD, x_TD)
        out_TN = _product(x_TD, weight)
        if bias_N is not None:
            out_TN += bias_N
        if residual_TN is not None:
            out_TN += residual_TN
        return out_TN

    def linears(
        self,
        x_TD: F32,
        weights: tuple[Linear, ...],
        biases: tuple[F32 | None, ...] | None = None,
        *,
        norm: tuple[F32, float] | None = None,
    ) -> tuple[F32, ...]:
        """Each product in turn."""
        x_TD = x_TD if norm is None else self.rms_norm(x_TD, *norm)
        return tuple(self.linear(x_TD, w, b) for w, b in zip(weights, biases or (None,) * len(weights), strict=True))

    def rms_norm(self, x_TD: F32, weight_D: F32, eps: float) -> F32:
        """Mean square in float32 over the last axis."""
        mean_square = np.mean(x_TD * x_TD, axis=-1, keepdims=True, dtype=np.float32)
        return (x_TD / np.sqrt(mean_square + np.float32(eps)) * weight_D).astype(np.float32, copy=False)

    def rope(self, x_THK: F32, cos_TR: F32, sin_TR: F32) -> F32:
        """Half-split pairs; values past 2R pass unchanged."""
        n_pairs = cos_TR.shape[1]
        first, second = x_THK[..., :n_pairs], x_THK[..., n_pairs : 2 * n_pairs]
        cos, sin = cos_TR[:, None, :], sin_TR[:, None, :]
        out = x_THK.copy()
        out[..., :n_pairs] = first * cos - second * sin
        out[..., n_pairs : 2 * n_pairs] = second * cos + first * sin
        return out

    def silu_gate(self, gate_TF: F32, up_TF: F32) -> F32:
        """gate / (1 + exp(-gate)) * up."""
        with np.errstate(over="ignore"):  # exp(-gate) = inf gives the right limit, 0
            out: F32 = gate_TF / (1 + np.exp(-gate_TF)) * up_TF
        return out

    def gelu_gate(self, gate_TF: F32, up_TF: F32) -> F32:
        """The tanh formula, with (1 + tanh(u)) / 2 written as 1 / (1 + exp(-2 u))."""
        with np.errstate(over="ignore"):  # as in silu_gate
            minus_twice_u = gate_TF * (_GELU_LINEAR + _GELU_CUBIC * (gate_TF * gate_TF))
            out: F32 = gate_TF / (1 + np.exp(minus_twice_u)) * up_TF
        return out

    def sigmoid_gate(self, gate_TG: F32, x_TN: F32) -> F32:
        """x / (1 + exp(-gate))."""
        with np.errstate(over="ignore"):  # as in silu_gate
            share_TG: F32 = 1 + np.exp(-gate_TG)
        n_tokens, n_gates = gate_TG.shape
        return (x_TN.reshape(n_tokens, n_gates, -1) / share_TG[..., None]).reshape(x_TN.shape)

    def route(self, logits_TE: F32, n_chosen: int, *, is_renormalised: bool) -> tuple[NDArray[np.int32], F32]:
        """Sort all, and take the first."""
        ids_TC = np.argsort(-logits_TE, axis=1, kind="stable")[:, :n_chosen].astype(np.int32)
        share_TE = np.exp(logits_TE - logits_TE.max(axis=1, keepdims=True))
        share_TE /= share_TE.sum(axis=1, keepdims=True)
        weights_TC: F32 = np.take_along_axis(share_TE, ids_TC, axis=1)
        return ids_TC, weights_TC / weights_TC.sum(axis=1, keepdims=True) if is_renormalised else weights_TC

    def experts(self, x_TD: F32, experts: Experts, ids_TC: NDArray[np.int32], weights_TC: F32, residual_TD: F32) -> F32:
        """Expert after expert, each over the tokens that chose it."""
        out_TD = residual_TD.copy()
        for expert in np.unique(ids_TC).tolist():
            gate, up, down = (_member(stack, expert) for stack in (experts.gate, experts.up, experts.down))
            tokens, choices = np.nonzero(ids_TC == expert)
            hidden_TF = self.linear(x_TD[tokens], up)
            made_TD = self.linear(hidden_TF, down, gate_TD=self.linear(x_TD[tokens], gate))
            out_TD[tokens] += weights_TC[tokens, choices][:, None] * made_TD
        return out_TD

    def accumulate(self, x_TN: F32, out_TN: F32) -> None:
        """Value by value."""
        out_TN += x_TN

    def write_kv(self, k_TGK: F32, v_TGK: F32, pages: KvPages, slots_T: NDArray[np.int64]) -> None:
        """Scatter the rows into their pages."""
        page, offset = slots_T // PAGE_TOKENS, slots_T % PAGE_TOKENS
        if pages.type == "int8":
            k_TGK, pages.k_scale_PGB[page, :, offset] = _quantise(k_TGK)
            v_TGK, pages.v_scale_PGB[page, :, offset] = _quantise(v_TGK)
        pages.k_PGKB[page, :, :, offset] = _to_stored(k_TGK, pages)
        pages.v_PGBK[page, :, offset, :] = _to_stored(v_TGK, pages)

    def attention(self, q_THK: F32, pages: KvPages, spans: Spans, scale: float, window: int | None = None) -> F32:
        """Gather each sequence's keys and values, and take a plain softmax row by row."""
        out_THK = np.empty_like(q_THK)
        n_kv_heads = pages.k_PGKB.shape[1]
        for s, position in enumerate(spans.positions):
            start, stop = int(spans.row_starts[s]), int(spans.row_starts[s + 1])
            n_keys = int(position) + stop - start
            table = spans.page_tables_SP[s, : -(-n_keys // PAGE_TOKENS)]
            k_PGKB, v_PGBK = _from_stored(pages.k_PGKB[table], pages), _from_stored(pages.v_PGBK[table], pages)
            if pages.type == "int8":
                k_PGKB *= pages.k_scale_PGB[table][:, :, None, :]
                v_PGBK *= pages.v_scale_PGB[table][..., None]
            k_GKC = k_PGKB.transpose(1, 2, 0, 3).reshape(n_kv_heads, q_THK.shape[-1], -1)
            v_GCK = v_PGBK.transpose(1, 0, 2, 3).reshape(n_kv_heads, -1, q_THK.shape[-1])
            for row in range(start, stop):
                n_visible = int(position) + row - start + 1
                first = 0 if window is None else max(0, n_visible - window)
                q_GMK = q_THK[row].reshape(n_kv_heads, -1, q_THK.shape[-1])
                scores = np.matmul(q_GMK, k_GKC[:, :, first:n_visible]) * np.float32(scale)
                weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
                weights /= weights.sum(axis=-1, keepdims=True)
                out_THK[row] = np.matmul(weights, v_GCK[:, first:n_visible]).reshape(out_THK.shape[1:])
        return out_THK

    def convolve(self, x_TM: F32, net: DeltaNet, states: States, spans: Spans) -> F32:
        """See `reference_delta_net`."""
        return convolve(x_TM, net, states, spans)

    def delta_rule(self, x_TM: F32, gates_TM: F32, net: DeltaNet, states: States, spans: Spans) -> F32:
        """See `reference_delta_net`."""
        return delta_rule(x_TM, gates_TM, net, states, spans)

    def sample(self, logits_SV: F32, batch: SampleBatch) -> NDArray[np.int64]:
        """Row by row; see `reference_sample`."""
        ids_S = np.array([choose(logits_V, batch, row) for row, logits_V in enumerate(logits_SV)], np.int64)
        refuse_failed(ids_S, logits_SV)
        return ids_S


def _member(stack: Stack, index: int) -> StoredLinear:
    """One expert's weight."""
    assert isinstance(stack, LinearStack)
    member = stack.members[index]
    assert isinstance(member, StoredLinear)
    return member


def _product(x_TD: F32, weight: Linear) -> F32:
    """Dequantise panels of rows and multiply, one input row at a time so that a row never depends on its neighbours."""
    assert isinstance(weight, StoredLinear)
    tensor, n_out, n_in = weight.tensor, weight.n_out, weight.n_in
    out_TN = np.empty((len(x_TD), n_out), np.float32)
    x_TD = x_TD if tensor.input_order is None else np.take(x_TD, tensor.input_order, axis=1)
    step = max(1, _PANEL_ELEMENTS // n_in)
    for start in range(0, n_out, step):
        rows = tensor.rows()[start : start + step]
        panel_ND = dequantise(tensor.type, rows.reshape(-1)).reshape(len(rows), n_in)
        for t, x_D in enumerate(x_TD):
            np.dot(panel_ND, x_D, out=out_TN[t, start : start + step])
    return out_TN


def _to_stored(x: F32, pages: KvPages) -> NDArray[np.generic]:
    """Round float32 to the pages' type, to nearest even."""
    if pages.type in ("f32", "int8"):
        return x
    if pages.type == "f16":
        return np.where(np.isfinite(x), x.clip(-65504, 65504), x).astype(np.float16)
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _quantise(x_TGK: F32) -> tuple[F32, F32]:
    """int8 codes as whole float32 numbers, and a scale for each row."""
    top_TG = np.abs(x_TGK).max(axis=-1)
    is_finite = np.isfinite(top_TG)
    scale_TG = (np.where(is_finite, top_TG, np.nan) / np.float32(127)).astype(np.float32, copy=False)
    divisor_TG = np.where(scale_TG > 0, scale_TG, np.inf)  # codes 0 where there is no scale to divide by
    codes_TGK = np.where(is_finite[..., None], x_TGK, 0) / divisor_TG[..., None]
    return np.rint(codes_TGK.clip(-127, 127)).astype(np.float32, copy=False), scale_TG


def _from_stored(x: NDArray[np.generic], pages: KvPages) -> F32:
    """Widen to float32, exactly."""
    if pages.type == "bf16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32)
