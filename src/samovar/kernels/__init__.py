"""Every operation a model needs, as one Protocol with two implementations: NumPy (the definition) and native.

Shape letters: T tokens, S sequences in a batch, D width, N outputs of a linear layer, H query heads, G key/value heads,
K head width, R rotated pairs, F ffn width, V vocabulary, P pages, B tokens per page.

Laws for each implementation: a row's result depends on that row alone, never on the other rows of the call, on the number
of threads, or on how a prompt was cut into calls. Activations are float32, C-contiguous.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from samovar.kernels.sample_batch import SampleBatch
from samovar.tensors.stored import StoredTensor

F32 = NDArray[np.float32]
KvType = Literal["f32", "f16", "bf16"]
PAGE_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPages:
    """Keys and values of one layer, in pages of B = PAGE_TOKENS tokens.

    `k_PGKB` has the tokens innermost, so that scores are formed for many keys at once; `v_PGBK` has the head width innermost.
    Their dtype is float32, float16, or uint16 holding bfloat16 bits, as `type` says.
    """

    type: KvType
    k_PGKB: NDArray[np.generic]
    v_PGBK: NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Which rows of a call belong to which sequence.

    Sequence s owns rows `row_starts[s]` to `row_starts[s + 1]` (int32 [S + 1]); the first of them stands at position
    `positions[s]` of its sequence (int32 [S]). `page_tables_SP` (int32) lists its pages in order; unused entries are 0.
    """

    row_starts: NDArray[np.int32]
    positions: NDArray[np.int32]
    page_tables_SP: NDArray[np.int32]


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


class Ops(Protocol):
    """The list of operations. `kernels.reference.ReferenceOps` defines what each computes."""

    @property
    def isa(self) -> str:
        """Instruction set in use: `numpy`, `scalar`, `avx2`, `avx512`."""
        ...

    @property
    def n_threads(self) -> int: ...

    def pack(self, weight: StoredTensor) -> Linear:
        """Take a [N, D] weight of any storage type into the compute layout. The source is not needed afterwards."""
        ...

    def embed(self, table: StoredTensor, ids_T: NDArray[np.int64]) -> F32:
        """[T, D]: the rows `ids_T` of a [V, D] table in float32."""
        ...

    def linear(
        self,
        x_TD: F32,
        weight: Linear,
        bias_N: F32 | None = None,
        *,
        gate_TD: F32 | None = None,
        residual_TN: F32 | None = None,
    ) -> F32:
        """[T, N]: residual + (x times the transposed weight + bias); with a gate, of silu(gate) * x instead of x."""
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

    def write_kv(self, k_TGK: F32, v_TGK: F32, pages: KvPages, slots_T: NDArray[np.int64]) -> None:
        """Store keys and values at `slots_T` (page * B + offset), rounded to the pages' type (nearest even)."""
        ...

    def attention(self, q_THK: F32, pages: KvPages, spans: Spans, scale: float) -> F32:
        """[T, H, K]: causal attention of each row over positions 0 to its own; query head h reads kv head h // (H / G)."""
        ...

    def sample(self, logits_SV: F32, batch: SampleBatch) -> NDArray[np.int64]:
        """[S]: a token id chosen from each row, as `kernels.reference_sample` defines it. Raises NoTokenLeft naming a row that
        holds a NaN or an infinity, or allows no token."""
        ...
