"""Every operation a model needs, as one Protocol with two implementations: NumPy (the definition) and native.

Shape letters: T tokens, S sequences in a batch, D width, N outputs of a linear layer, H query heads, G key/value heads,
K head width, R rotated pairs, F ffn width, E experts, C experts chosen for a token, V vocabulary, P pages, B tokens per page.
Of layers with a recurrent state: Z slots for states, J taps and M channels of a convolution, U width of a value head.

Laws for each implementation: a row's result depends on that row alone, never on the other rows of the call, on the number
of threads, or on how a prompt was cut into calls. Activations are float32, C-contiguous.
"""

import contextlib
import math
import mmap
import sys
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from samovar.kernels.sample_batch import SampleBatch
from samovar.tensors.dtypes import TensorType
from samovar.tensors.stored import StoredTensor

F32 = NDArray[np.float32]
WeightForm = Literal["stored", "int4"]
"""What a linear layer's weights are computed in: the type that they are stored in, or rounded to int4 (`kernels.int4`)."""

Activation = Literal["silu", "gelu_tanh"]
"""What a gate goes through: x / (1 + exp(-x)), or x / (1 + exp(-2 u)) with u = sqrt(2 / pi) * (x + 0.044715 x^3)."""

KvType = Literal["f32", "f16", "bf16", "int8"]
KV_DTYPES: dict[KvType, np.dtype[np.generic]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "int8": np.dtype(np.int8),
}
PAGE_TOKENS = 32
SCALE_BYTES = 4
_HUGE_PAGE_BYTES = 2 << 20
_LINE_BYTES = 64  # vectors that lie across two cache lines are read at half the speed


def _no_scales() -> F32:
    return np.empty((0, 0, 0), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPages:
    """Keys and values of one layer, in pages of B = PAGE_TOKENS tokens.

    `k_PGKB` has the tokens innermost, so that scores are formed for many keys at once; `v_PGBK` has the head width innermost.
    Their dtype is `KV_DTYPES[type]`; uint16 holds bfloat16 bits. int8 pages have a float32 scale for each token and head, apart
    for keys and values: a value is code * scale. Other types have empty arrays there.
    """

    type: KvType
    k_PGKB: NDArray[np.generic]
    v_PGBK: NDArray[np.generic]
    k_scale_PGB: F32 = field(default_factory=_no_scales)
    v_scale_PGB: F32 = field(default_factory=_no_scales)

    @classmethod
    def empty(cls, kv_type: KvType, n_pages: int, n_kv_heads: int, d_head: int) -> "KvPages":
        """Pages that are not initialised, but for the scales. Raises MemoryError."""
        dtype, n_scaled = KV_DTYPES[kv_type], n_pages if kv_type == "int8" else 0
        return cls(
            type=kv_type,
            k_PGKB=_aligned((n_pages, n_kv_heads, d_head, PAGE_TOKENS), dtype),
            v_PGBK=_aligned((n_pages, n_kv_heads, PAGE_TOKENS, d_head), dtype),
            k_scale_PGB=np.zeros((n_scaled, n_kv_heads, PAGE_TOKENS), np.float32),
            v_scale_PGB=np.zeros((n_scaled, n_kv_heads, PAGE_TOKENS), np.float32),
        )


def _aligned(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """An array that starts on a cache line. Raises MemoryError.

    Of a large one, the first 2 MiB are not one huge page, as NumPy would have it: the first prompt would wait until that is
    zeroed, in each array of each layer.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if sys.platform == "linux" and n_bytes > 2 * _HUGE_PAGE_BYTES:
        try:
            mapped = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"{n_bytes} bytes: {error.strerror}") from error
        with contextlib.suppress(OSError):  # a system without huge pages
            mapped.madvise(mmap.MADV_HUGEPAGE, _HUGE_PAGE_BYTES, n_bytes - _HUGE_PAGE_BYTES)
        return np.frombuffer(mapped, dtype).reshape(shape)
    memory = np.empty(n_bytes + _LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % _LINE_BYTES
    return memory[start : start + n_bytes].view(dtype).reshape(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Which rows of a call belong to which sequence.

    Sequence s owns rows `row_starts[s]` to `row_starts[s + 1]` (int32 [S + 1]); the first of them stands at position
    `positions[s]` of its sequence (int32 [S]). `page_tables_SP` (int32) lists its pages in order; unused entries are 0.
    `states_S` (int32) are the slots of the sequences' recurrent states, each sequence's its own; empty in models without any.
    """

    row_starts: NDArray[np.int32]
    positions: NDArray[np.int32]
    page_tables_SP: NDArray[np.int32]
    states_S: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """The recurrent states of one gated delta net layer (Yang et al., 2024, arXiv 2412.06464), one in each slot.

    `inputs_ZJM` are the last J - 1 inputs of the convolution, oldest first; `memory_ZHKU` is a matrix for each value head.
    What a slot holds before its sequence's first token counts as zero.
    """

    inputs_ZJM: F32
    memory_ZHKU: F32

    @classmethod
    def empty(cls, n_slots: int, n_taps: int, n_channels: int, n_heads: int, d_key: int, d_value: int) -> "States":
        """States that are not initialised. Raises MemoryError."""
        return cls(
            inputs_ZJM=_aligned((n_slots, n_taps - 1, n_channels), np.dtype(np.float32)).view(np.float32),
            memory_ZHKU=_aligned((n_slots, n_heads, d_key, d_value), np.dtype(np.float32)).view(np.float32),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaNet:
    """What a gated delta net layer learned beside its matrices: taps of the convolution, the oldest input's first, and of each
    value head how fast it forgets and a bias."""

    taps_JM: F32
    rate_H: F32
    bias_H: F32


class Linear(Protocol):
    """Weights of one linear layer, in the form that the `Ops` which packed them computes on."""

    @property
    def n_out(self) -> int: ...
    @property
    def n_in(self) -> int: ...
    @property
    def size_bytes(self) -> int:
        """Resident bytes of the packed form."""
        ...


class Stack(Protocol):
    """Weights [n_out, n_in] of one projection of all experts of a layer, in the form that their `Ops` computes on."""

    @property
    def n_stacked(self) -> int: ...
    @property
    def n_out(self) -> int: ...
    @property
    def n_in(self) -> int: ...
    @property
    def size_bytes(self) -> int:
        """Resident bytes of the packed form, of all experts."""
        ...


@dataclass(frozen=True, slots=True)
class LinearStack:
    """The weights of a projection of all experts of a layer, one by one."""

    members: tuple[Linear, ...]

    @property
    def n_stacked(self) -> int:
        """Experts."""
        return len(self.members)

    @property
    def n_out(self) -> int:
        """Rows of each weight."""
        return self.members[0].n_out

    @property
    def n_in(self) -> int:
        """Columns of each weight."""
        return self.members[0].n_in

    @property
    def size_bytes(self) -> int:
        """Resident bytes of all."""
        return sum(member.size_bytes for member in self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The weights of a layer's experts: `gate` and `up` [E, F, D], `down` [E, D, F]."""

    gate: Stack
    up: Stack
    down: Stack


class Ops(Protocol):
    """The list of operations. `kernels.reference.ReferenceOps` defines what each computes."""

    @property
    def isa(self) -> str:
        """Instruction set in use: `numpy`, `scalar`, `avx2`, `avx512`."""
        ...

    @property
    def n_threads(self) -> int: ...

    def pack(self, weight: StoredTensor, form: WeightForm = "stored") -> Linear:
        """Take a [N, D] weight of any storage type into the compute layout. The source is not needed afterwards.

        int4 wants D to be a multiple of 64, and raises FormatError where a value is infinite or no number.
        """
        ...

    def pack_stack(self, tensors: tuple[StoredTensor, ...], form: WeightForm = "stored") -> Stack:
        """Take the weights of experts into the compute layout, as `pack` does those of a layer.

        Each tensor is that of one expert [N, D] or of several [E, N, D], in the order of the experts; all are of one type.
        """
        ...

    def quantise(self, type_: TensorType, x_NK: F32, importance_K: F32) -> NDArray[np.uint8]:
        """[N, row bytes]: rows in one of `kernels.quantise.QUANTISED_TYPES`, whose blocks divide K.

        Values are finite and at most 65504; the importance of each column is positive, and around 1.
        """
        ...

    def embed(self, table: StoredTensor, ids_T: NDArray[np.int64], scale: float = 1.0) -> F32:
        """[T, D]: the rows `ids_T` of a [V, D] table in float32, times `scale`."""
        ...

    def take_rows(self, x_TD: F32, rows_S: NDArray[np.int64]) -> F32:
        """[S, D]: a copy of the rows `rows_S`, which are not negative."""
        ...

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
        """[T, N]: residual + (x times the transposed weight + bias); with a gate, of activation(gate) * x instead of x."""
        ...

    def linears(
        self,
        x_TD: F32,
        weights: tuple[Linear, ...],
        biases: tuple[F32 | None, ...] | None = None,
        *,
        norm: tuple[F32, float] | None = None,
    ) -> tuple[F32, ...]:
        """Several products of the same input in one call; with a `norm` (weight_D, eps), of rms_norm(x) instead of x."""
        ...

    def rms_norm(self, x_TD: F32, weight_D: F32, eps: float) -> F32:
        """x / sqrt(mean(x^2) + eps) * weight over the last axis; any number of leading axes."""
        ...

    def rope(self, x_THK: F32, cos_TR: F32, sin_TR: F32) -> F32:
        """Rotate the pairs (i, i + R) of each head's first 2R values (the "half-split" pairing of GPT-NeoX)."""
        ...

    def silu_gate(self, gate_TF: F32, up_TF: F32) -> F32:
        """silu(gate) * up."""
        ...

    def gelu_gate(self, gate_TF: F32, up_TF: F32) -> F32:
        """gelu_tanh(gate) * up, see `Activation`."""
        ...

    def sigmoid_gate(self, gate_TG: F32, x_TN: F32) -> F32:
        """x / (1 + exp(-gate)), where each gate of a row is that of N / G neighbours."""
        ...

    def route(self, logits_TE: F32, n_chosen: int, *, is_renormalised: bool) -> tuple[NDArray[np.int32], F32]:
        """([T, C], [T, C]): the experts of the largest logits, largest first, equal ones in ascending order, and their weights.

        These are the softmax over all experts, in float32; renormalised ones are divided by the sum of those chosen.
        """
        ...

    def experts(self, x_TD: F32, experts: Experts, ids_TC: NDArray[np.int32], weights_TC: F32, residual_TD: F32) -> F32:
        """[T, D]: the residual + the sum of weight * down(silu(gate(x)) * up(x)) over a token's experts.

        They are added one by one to the residual, in ascending order of their ids. Experts that no token chose are not read.
        """
        ...

    def accumulate(self, x_TN: F32, out_TN: F32) -> None:
        """out += x, in place; the two share no memory."""
        ...

    def write_kv(self, k_TGK: F32, v_TGK: F32, pages: KvPages, slots_T: NDArray[np.int64]) -> None:
        """Store keys and values at `slots_T` (page * B + offset), rounded to the pages' type (nearest even).

        f16: finite values beyond 65504 become 65504 with their sign. int8: a row of one token and head has scale max |x| / 127
        and codes x / scale; one that holds an infinity or no number has codes 0 and no number as scale, and reads as no number.
        """
        ...

    def attention(self, q_THK: F32, pages: KvPages, spans: Spans, scale: float, window: int | None = None) -> F32:
        """[T, H, K]: causal attention of each row over positions 0 to its own; query head h reads kv head h // (H / G).

        With a `window`, a row sees the last `window` of these positions alone, and pages that no row sees are not read.
        """
        ...

    def convolve(self, x_TM: F32, net: DeltaNet, states: States, spans: Spans) -> F32:
        """[T, M]: silu(sum over j of taps_JM[j] * the input J - 1 - j tokens before), and the inputs kept for what follows."""
        ...

    def delta_rule(self, x_TM: F32, gates_TM: F32, net: DeltaNet, states: States, spans: Spans) -> F32:
        """[T, H, U]: what each token reads from the memories of the value heads, which it changes first.

        x holds G queries, then G keys of width K, then H values of width U; value head h has query and key h // (H / G). Both
        are divided by sqrt(sum of squares + 1e-6), queries also by sqrt(K). gates_TM [T, 2 H] holds b, then a, of each value
        head. With decay = exp(-rate * softplus(a + bias)),
            memory = decay * memory;  memory += k (v - k memory) / (1 + exp(-b));  out = q memory,
        token by token, so that it does not matter how a prompt was cut.
        """
        ...

    def sample(self, logits_SV: F32, batch: SampleBatch) -> NDArray[np.int64]:
        """[S]: a token id chosen from each row, as `kernels.reference_sample` defines it. Raises NoTokenLeft naming a row that
        holds a NaN or an infinity, or allows no token."""
        ...
