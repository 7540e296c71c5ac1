"""The operations on `samovar._native`: allocates the outputs. The compiled code checks dtypes, shapes and page numbers, and
raises TypeError or ValueError for our own bugs.

The compiled module is missing where the package was installed without a C++ compiler; `native_ops` says so, and a caller may
fall back to `kernels.reference.ReferenceOps`. Shape letters: see `samovar.kernels`.
"""

import importlib
import math
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samovar.errors import OutOfMemory, SamovarError
from samovar.kernels import F32, Activation, DeltaNet, Experts, KvPages, Linear, Spans, States, WeightForm
from samovar.kernels.codebooks import CODEBOOK_TYPES, codebook
from samovar.kernels.cores import usable_cores
from samovar.kernels.finite import scales_not_finite
from samovar.kernels.sample_batch import SampleBatch, refuse_failed
from samovar.kernels.slabs import Slabs
from samovar.tensors.dtypes import F32 as F32_TYPE
from samovar.tensors.dtypes import INT4_ROWS, TensorType
from samovar.tensors.stored import StoredTensor, Tensor

if TYPE_CHECKING:
    from samovar._native import Engine, NativeLinear, Program

_SLAB_ELEMENTS = 32768  # smaller outputs come from the heap, which uses their memory again by itself
_WHOLE_CONTEXT = (1 << 31) - 1  # a window that holds every position
_KIND = {"f32": 0, "f16": 1, "bf16": 2, "int8": 3}


def native_missing_reason() -> str | None:
    """Why the compiled kernels cannot be used, as a sentence for the user; None where they can."""
    try:
        importlib.import_module("samovar._native")
    except ImportError as error:
        return (
            f"the native kernels are not installed ({error}): install a C++ compiler and the Python headers "
            "(Debian and Ubuntu: apt install g++ python3-dev), then install samovar again"
        )
    return None


def available_isas() -> tuple[str, ...]:
    """Instruction sets that this processor and build can use, best last; empty where the native kernels are missing."""
    return tuple(_native().available_isas()) if native_missing_reason() is None else ()


def isa_warning() -> str | None:
    """What a user should know of an instruction set that this processor has and that is not used; None where nothing is."""
    return _native().isa_warning() or None


def native_ops(isa: str | None = None, n_threads: int | None = None) -> "NativeOps":
    """Operations on the instruction set `isa` (default: the best) with `n_threads` threads (default: all usable cores).

    Raises SamovarError where the native kernels are missing, `isa` is not available, or `n_threads` is below 1.
    """
    if reason := native_missing_reason():
        raise SamovarError(reason)
    names = available_isas()
    if isa is not None and isa not in names:
        raise SamovarError(f"instruction set {isa!r} is not available here: choose one of {', '.join(names)}, or leave it out")
    if n_threads is not None and n_threads < 1:
        raise SamovarError(f"{n_threads} threads asked for: give 1 or more")
    return NativeOps(isa or names[-1], n_threads or usable_cores())


def packed_layout() -> int:
    """Number of the packed layout that this build computes on; packed weights of another are of no use to it."""
    return int(_native().packed_layout)


def packed_bytes(weight: Tensor, n_stacked: int, form: WeightForm = "stored") -> int:
    """Resident bytes of `n_stacked` weights of this tensor's type and last two axes, packed; nothing is. Raises SamovarError
    where the native kernels are missing."""
    if reason := native_missing_reason():
        raise SamovarError(reason)
    type_id = _native().int4_id if form == "int4" else weight.type.ggml_id
    return int(_native().NativeLinear(type_id, *weight.shape[-2:], n_stacked, weight.has_input_order).size_bytes)


class NativeOps:
    """Implements `samovar.kernels.Ops` in compiled code. Made by `native_ops`."""

    def __init__(self, isa: str, n_threads: int) -> None:
        self._isa = isa
        self._engine: Engine = _native().Engine(isa, n_threads)
        self._target: Engine | Program = self._engine
        self._slabs = Slabs()
        self._codebooks: set[str] = set()

    @property
    def isa(self) -> str:
        """Name of the instruction set in use."""
        return self._isa

    @property
    def n_threads(self) -> int:
        """Threads that share the work, the caller's included."""
        return self._engine.n_threads

    @property
    def native_seconds(self) -> float:
        """Time spent in compiled operations so far; the rest of a step is Python's share."""
        return self._engine.native_seconds

    def pack(self, weight: StoredTensor, form: WeightForm = "stored") -> "NativeLinear":
        """Copy a [N, D] weight into the compute layout and release its mapped pages. Raises OutOfMemory."""
        packed = self.empty_linear(weight, form)
        self.fill(packed, (weight,))
        return packed

    def pack_stack(self, tensors: tuple[StoredTensor, ...], form: WeightForm = "stored") -> "NativeLinear":
        """Copy the weights of experts into the compute layout, one behind the other. Raises OutOfMemory."""
        packed = self.empty_stack(tensors, form)
        self.fill(packed, tensors)
        return packed

    def empty_linear(self, weight: Tensor, form: WeightForm = "stored") -> "NativeLinear":
        """What `pack` will make of a [N, D] weight, its size known, to be filled before it is computed on."""
        assert len(weight.shape) == 2, weight.name
        return self.empty_stack((weight,), form)

    def empty_stack(self, tensors: tuple[Tensor, ...], form: WeightForm = "stored") -> "NativeLinear":
        """What `pack_stack` will make of the tensors, its size known, to be filled before it is computed on."""
        first = tensors[0]
        assert all(t.type == first.type and t.shape[-2:] == first.shape[-2:] for t in tensors), first.name
        assert all(t.has_input_order == first.has_input_order for t in tensors), first.name
        type_id = _native().int4_id if form == "int4" or first.type is INT4_ROWS else first.type.ggml_id
        n_stacked = sum(map(_n_weights, tensors))
        linear: NativeLinear = _native().NativeLinear(type_id, *first.shape[-2:], n_stacked, first.has_input_order)
        return linear

    def fill(self, linear: "NativeLinear", tensors: Iterable[StoredTensor]) -> None:
        """Pack the tensors into what `empty_linear` or `empty_stack` made for them, and release their mapped pages.

        They are asked for one by one, and not kept. Raises OutOfMemory.
        """
        first = 0
        for tensor in tensors:
            self._fill_members(linear, tensor, first)
            tensor.release()
            first += _n_weights(tensor)

    def _fill_members(self, linear: "NativeLinear", weight: StoredTensor, first: int) -> None:
        try:
            self._give_codebook(weight.type)
            if not linear.is_int4:
                if not self._engine.pack(linear, weight.data, first, weight.input_order):
                    raise scales_not_finite(weight)
            elif not self._engine.pack_int4(linear, weight.type.ggml_id, weight.data, first, weight.input_order):
                from samovar.kernels.int4 import not_finite  # most starts need nothing of it

                raise not_finite(weight)
        except MemoryError as error:
            raise OutOfMemory(
                f"{weight.source}: no memory for tensor {weight.name} ({weight.size_bytes} bytes): close other programs, "
                "or choose a smaller model or quantisation"
            ) from error

    def _give_codebook(self, type_: TensorType) -> None:
        """The engine keeps the codebooks of the types that it has met."""
        if type_.name in CODEBOOK_TYPES and type_.name not in self._codebooks:
            self._engine.take_codebook(type_.ggml_id, np.ascontiguousarray(codebook(type_.name).codes).reshape(-1))
            self._codebooks.add(type_.name)

    def quantise(self, type_: TensorType, x_NK: F32, importance_K: F32) -> NDArray[np.uint8]:
        """See `kernels.quantise.quantise`."""
        out = np.empty((len(x_NK), x_NK.shape[1] // type_.block_elements * type_.block_bytes), np.uint8)
        self._engine.quantise(type_.ggml_id, x_NK, importance_K, out)
        return out

    def embed(self, table: StoredTensor, ids_T: NDArray[np.int64], scale: float = 1.0) -> F32:
        """Dequantise the rows asked for."""
        assert len(table.shape) == 2, table.name
        self._give_codebook(table.type)
        out_TD = self._new(len(ids_T), table.shape[1])
        self._target.embed(table.type.ggml_id, table.data, ids_T, scale, out_TD)
        return out_TD

    def take_rows(self, x_TD: F32, rows_S: NDArray[np.int64]) -> F32:
        """As `embed` from a table of float32."""
        out_SD = self._new(len(rows_S), x_TD.shape[1])
        self._target.embed(F32_TYPE.ggml_id, x_TD.reshape(-1).view(np.uint8), rows_S, 1.0, out_SD)
        return out_SD

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
        """Quantised weights: x is rounded to 8 bits with a scale for each 32 values; outliers of the row (more than 4 times its
        root mean square) have 15 bits, and do not count for the scale. Sums are exact within such a group. Beside floats of any
        width x stays as it is."""
        out_TN = self._new(len(x_TD), weight.n_out)
        packed: tuple[NativeLinear, ...] = (weight,)  # type: ignore[assignment]  # the binding refuses what it did not pack
        self._target.linears(x_TD, packed, (bias_N,), (out_TN,), residual_TN, None, 0.0, gate_TD, activation == "gelu_tanh")
        return out_TN

    def linears(
        self,
        x_TD: F32,
        weights: tuple[Linear, ...],
        biases: tuple[F32 | None, ...] | None = None,
        *,
        norm: tuple[F32, float] | None = None,
    ) -> tuple[F32, ...]:
        """As `linear`; the input is rounded once and the threads are woken once."""
        outs = tuple([self._new(len(x_TD), weight.n_out) for weight in weights])
        norm_D, eps = norm or (None, 0.0)
        biases = biases or (None,) * len(weights)
        self._target.linears(x_TD, weights, biases, outs, None, norm_D, eps, None, False)  # type: ignore[arg-type]
        return outs

    def rms_norm(self, x_TD: F32, weight_D: F32, eps: float) -> F32:
        """Sums of squares in 16 float32 lanes."""
        out_TD = self._new(*x_TD.shape)
        self._target.rms_norm(x_TD, weight_D, eps, out_TD)
        return out_TD

    def rope(self, x_THK: F32, cos_TR: F32, sin_TR: F32) -> F32:
        """Rotates in float32; values past 2R pass unchanged."""
        out_THK = self._new(*x_THK.shape)
        self._target.rope(x_THK, cos_TR, sin_TR, out_THK)
        return out_THK

    def silu_gate(self, gate_TF: F32, up_TF: F32) -> F32:
        """The exponential is within 2 units in the last place."""
        out_TF = self._new(*gate_TF.shape)
        self._target.silu_gate(gate_TF, up_TF, out_TF)
        return out_TF

    def gelu_gate(self, gate_TF: F32, up_TF: F32) -> F32:
        """The exponential is within 2 units in the last place of its argument's."""
        out_TF = self._new(*gate_TF.shape)
        self._target.gelu_gate(gate_TF, up_TF, out_TF)
        return out_TF

    def sigmoid_gate(self, gate_TG: F32, x_TN: F32) -> F32:
        """The exponential is within 2 units in the last place."""
        out_TN = self._new(*x_TN.shape)
        self._target.sigmoid_gate(gate_TG, x_TN, out_TN)
        return out_TN

    def route(self, logits_TE: F32, n_chosen: int, *, is_renormalised: bool) -> tuple[NDArray[np.int32], F32]:
        """The exponential is within 2 units in the last place."""
        ids_TC, weights_TC = self._new(len(logits_TE), n_chosen).view(np.int32), self._new(len(logits_TE), n_chosen)
        self._target.route(logits_TE, is_renormalised, ids_TC, weights_TC)
        return ids_TC, weights_TC

    def experts(self, x_TD: F32, experts: Experts, ids_TC: NDArray[np.int32], weights_TC: F32, residual_TD: F32) -> F32:
        """Tokens are sorted by expert; each expert's products are those of `linear` over its tokens."""
        out_TD = self._new(*x_TD.shape)
        # the binding refuses weights that it did not pack
        gate, up, down = experts.gate, experts.up, experts.down
        self._target.experts(x_TD, gate, up, down, ids_TC, weights_TC, residual_TD, out_TD)  # type: ignore[arg-type]
        return out_TD

    def accumulate(self, x_TN: F32, out_TN: F32) -> None:
        """The output may be a part of another output."""
        self._target.accumulate(x_TN, out_TN)

    def write_kv(self, k_TGK: F32, v_TGK: F32, pages: KvPages, slots_T: NDArray[np.int64]) -> None:
        """Scatter the rows into their pages."""
        self._target.write_kv(k_TGK, v_TGK, *_arrays(pages), slots_T)

    def attention(self, q_THK: F32, pages: KvPages, spans: Spans, scale: float, window: int | None = None) -> F32:
        """Keys in partitions of 256 at absolute positions, each with its own softmax, joined in order."""
        out_THK = self._new(*q_THK.shape)
        self._target.attention(
            q_THK, *_arrays(pages), spans.row_starts, spans.positions, spans.page_tables_SP, scale,
            _WHOLE_CONTEXT if window is None else window,
            out_THK,
        )  # fmt: skip
        return out_THK

    def convolve(self, x_TM: F32, net: DeltaNet, states: States, spans: Spans) -> F32:
        """Channels are independent; taps are summed with fused products, the oldest input's first."""
        out_TM = self._new(*x_TM.shape)
        self._target.convolve(x_TM, net.taps_JM, states.inputs_ZJM, *_places(spans), out_TM)
        return out_TM

    def delta_rule(self, x_TM: F32, gates_TM: F32, net: DeltaNet, states: States, spans: Spans) -> F32:
        """Columns of the memories are independent; sums over the key width have the order that `native/kernels.h` gives."""
        _, n_heads, _, d_value = states.memory_ZHKU.shape
        out_THU = self._new(len(x_TM), n_heads, d_value)
        self._target.delta_rule(x_TM, gates_TM, net.rate_H, net.bias_H, states.memory_ZHKU, *_places(spans), out_THU)
        return out_THU

    def sample(self, logits_SV: F32, batch: SampleBatch) -> NDArray[np.int64]:
        """The same ids as the definition; sorts no more candidates than top-k and top-p need."""
        ids_S = np.empty(len(logits_SV), np.int64)
        self._engine.sample(logits_SV, *batch, ids_S)
        refuse_failed(ids_S, logits_SV)
        return ids_S

    def _new(self, *shape: int) -> F32:
        """Memory for an output."""
        return self._slabs.new(*shape) if math.prod(shape) >= _SLAB_ELEMENTS else np.empty(shape, np.float32)


def _n_weights(tensor: Tensor) -> int:
    """Experts that a tensor holds the weights of."""
    return tensor.shape[0] if len(tensor.shape) == 3 else 1


def _arrays(pages: KvPages) -> tuple[int, NDArray[np.generic], NDArray[np.generic], F32, F32]:
    """Pages as the compiled code takes them."""
    return _KIND[pages.type], pages.k_PGKB, pages.v_PGBK, pages.k_scale_PGB, pages.v_scale_PGB


def _places(spans: Spans) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Spans as the compiled code takes them for recurrent states."""
    return spans.row_starts, spans.positions, spans.states_S


def _native() -> ModuleType:
    """The compiled module, imported on first use: the package must work without it."""
    return importlib.import_module("samovar._native")
