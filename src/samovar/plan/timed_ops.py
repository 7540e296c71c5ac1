"""A third set of operations, which compute nothing and count what the others would take.

A model is run on them as on any other: so whatever its layers are, its costs are those of its own operations. Results have
the right shapes and no memory: every element is the same zero. Shape letters: see `samovar.kernels`.
"""

from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from samovar.kernels import (
    F32,
    PAGE_TOKENS,
    Activation,
    DeltaNet,
    Experts,
    KvPages,
    KvType,
    Linear,
    Spans,
    Stack,
    States,
    WeightForm,
)
from samovar.kernels.native import packed_bytes
from samovar.kernels.sample_batch import SampleBatch
from samovar.models.config import DeltaNetConfig
from samovar.plan.costs import (
    Machine,
    attention_s,
    call_s,
    convolution_s,
    expected_distinct,
    memory_s,
    product_s,
    sampling_s,
    step_s,
    values_s,
)
from samovar.tensors.dtypes import TensorType
from samovar.tensors.stored import StoredTensor, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWeight:
    """A weight [n_out, n_in], or a stack of them, that is a size only. `kernel` names what computes on it."""

    kernel: str
    n_out: int
    n_in: int
    n_stacked: int
    size_bytes: int


@dataclass(slots=True)
class SizingPacker:
    """Packs nothing, and knows how large each weight would be. Implements `models.packing.Packer`."""

    weights: list[PlannedWeight] = field(default_factory=list)

    def pack(self, tensor: Tensor, order: NDArray[np.int64] | None, form: WeightForm) -> Linear:  # noqa: ARG002  # no size in it
        """A weight by itself."""
        return self.pack_stack((tensor,), form)

    def pack_stack(self, tensors: tuple[Tensor, ...], form: WeightForm) -> PlannedWeight:
        """The experts of a layer."""
        first = tensors[0]
        n_stacked = sum(tensor.shape[0] if len(tensor.shape) == 3 else 1 for tensor in tensors)
        weight = PlannedWeight(
            kernel="int4" if form == "int4" else first.type.name,
            n_out=first.shape[-2],
            n_in=first.shape[-1],
            n_stacked=n_stacked,
            size_bytes=packed_bytes(first, n_stacked, form),
        )
        self.weights.append(weight)
        return weight

    def end_part(self) -> None:
        """Parts do not matter here."""


def zeros(*shape: int) -> F32:
    """An array of this shape that takes no memory."""
    return np.broadcast_to(np.zeros((), np.float32), shape)


@dataclass(slots=True)
class TimedOps:
    """Implements `samovar.kernels.Ops`; `seconds` is what all calls so far would have taken on `machine`."""

    machine: Machine
    seconds: float = 0.0
    isa: str = "planned"
    n_threads: int = 1

    def pack(self, weight: StoredTensor, form: WeightForm = "stored") -> Linear:
        """Its size."""
        return SizingPacker().pack(weight, None, form)

    def pack_stack(self, tensors: tuple[StoredTensor, ...], form: WeightForm = "stored") -> Stack:
        """Their size."""
        return SizingPacker().pack_stack(tensors, form)

    def embed(self, table: StoredTensor, ids_T: NDArray[np.int64], scale: float = 1.0) -> F32:  # noqa: ARG002
        """Rows are dequantised."""
        return self._elementwise(zeros(len(ids_T), table.shape[1]))

    def take_rows(self, x_TD: F32, rows_S: NDArray[np.int64]) -> F32:
        """A copy."""
        return self._elementwise(zeros(len(rows_S), x_TD.shape[1]))

    def linear(
        self,
        x_TD: F32,
        weight: Linear,
        bias_N: F32 | None = None,
        *,
        gate_TD: F32 | None = None,
        activation: Activation = "silu",  # noqa: ARG002  # the others take as long
        residual_TN: F32 | None = None,  # noqa: ARG002  # added as sums are stored
    ) -> F32:
        """One product; a gate is computed value by value."""
        if gate_TD is not None:
            self.seconds += values_s(self.machine, x_TD.size)
        (out_TN,) = self.linears(x_TD, (weight,), (bias_N,))
        return out_TN

    def linears(
        self,
        x_TD: F32,
        weights: tuple[Linear, ...],
        biases: tuple[F32 | None, ...] | None = None,  # noqa: ARG002  # the start of sums
        *,
        norm: tuple[F32, float] | None = None,  # noqa: ARG002  # part of rounding
    ) -> tuple[F32, ...]:
        """Each product by itself; the input is rounded once."""
        planned = cast("tuple[PlannedWeight, ...]", weights)
        self.seconds += call_s() + values_s(self.machine, x_TD.size, is_rounding=True)
        for weight in planned:
            self.seconds += product_s(
                self.machine,
                weight.kernel,
                n_bytes=weight.size_bytes,
                n_weights=weight.n_out * weight.n_in,
                n_rows=len(x_TD),
            )
        return tuple(zeros(len(x_TD), weight.n_out) for weight in planned)

    def rms_norm(self, x_TD: F32, weight_D: F32, eps: float) -> F32:  # noqa: ARG002
        """Value by value."""
        return self._elementwise(x_TD)

    def rope(self, x_THK: F32, cos_TR: F32, sin_TR: F32) -> F32:  # noqa: ARG002
        """Value by value."""
        return self._elementwise(x_THK)

    def silu_gate(self, gate_TF: F32, up_TF: F32) -> F32:  # noqa: ARG002
        """Value by value."""
        return self._elementwise(gate_TF)

    def gelu_gate(self, gate_TF: F32, up_TF: F32) -> F32:  # noqa: ARG002
        """Value by value."""
        return self._elementwise(gate_TF)

    def sigmoid_gate(self, gate_TG: F32, x_TN: F32) -> F32:  # noqa: ARG002
        """Value by value."""
        return self._elementwise(x_TN)

    def quantise(self, type_: TensorType, x_NK: F32, importance_K: F32) -> NDArray[np.uint8]:
        """No model does so."""
        raise NotImplementedError

    def route(self, logits_TE: F32, n_chosen: int, *, is_renormalised: bool) -> tuple[NDArray[np.int32], F32]:  # noqa: ARG002
        """A choice of nobody in particular."""
        self._elementwise(logits_TE)
        chosen = zeros(len(logits_TE), n_chosen)
        return chosen.astype(np.int32), chosen

    def experts(
        self,
        x_TD: F32,  # noqa: ARG002  # as many rows as choices
        experts: Experts,
        ids_TC: NDArray[np.int32],
        weights_TC: F32,  # noqa: ARG002
        residual_TD: F32,
    ) -> F32:
        """Rows choose as if by lot; the experts that are chosen are read once, and share the rows."""
        n_rows, n_chosen = ids_TC.shape
        stacks = cast("tuple[PlannedWeight, ...]", (experts.gate, experts.up, experts.down))
        n_read = expected_distinct(stacks[0].n_stacked, n_chosen, n_rows)
        self.seconds += 2 * call_s() + values_s(self.machine, n_rows * n_chosen * (stacks[0].n_in + 2 * stacks[0].n_out))
        for stack in stacks:
            self.seconds += product_s(
                self.machine,
                stack.kernel,
                n_bytes=n_read * stack.size_bytes / stack.n_stacked,
                n_weights=n_read * stack.n_out * stack.n_in,
                n_rows=n_rows * n_chosen / n_read,
            )
        return residual_TD

    def accumulate(self, x_TN: F32, out_TN: F32) -> None:  # noqa: ARG002
        """Value by value."""
        self._elementwise(x_TN)

    def write_kv(self, k_TGK: F32, v_TGK: F32, pages: KvPages, slots_T: NDArray[np.int64]) -> None:  # noqa: ARG002
        """Value by value."""
        self._elementwise(k_TGK)
        self._elementwise(v_TGK)

    def attention(
        self,
        q_THK: F32,
        pages: KvPages,
        spans: Spans,
        scale: float,  # noqa: ARG002
        window: int | None = None,
    ) -> F32:
        """The positions that `spans` give, in pages of the type of `pages`."""
        counts, starts = np.diff(spans.row_starts).astype(np.int64), spans.positions.astype(np.int64)
        n_pairs = float((counts * starts + counts * (counts + 1) // 2).sum())
        if window is not None:
            n_pairs = min(n_pairs, float(counts.sum() * window))
            starts = np.minimum(starts, window)
        self.seconds += call_s() + attention_s(
            self.machine,
            pages.type,
            n_pairs=n_pairs,
            n_read_tokens=float((starts + counts).sum()),
            d_query=q_THK.shape[1] * q_THK.shape[2],
            d_key=pages.k_PGKB.shape[1] * pages.k_PGKB.shape[2],
            rows=float(counts.max()),
        )
        return q_THK

    def convolve(self, x_TM: F32, net: DeltaNet, states: States, spans: Spans) -> F32:  # noqa: ARG002
        """Value by value."""
        self.seconds += call_s() + convolution_s(self.machine, x_TM.size)
        return x_TM

    def delta_rule(self, x_TM: F32, gates_TM: F32, net: DeltaNet, states: States, spans: Spans) -> F32:  # noqa: ARG002
        """Each token passes over the memories; each sequence's are read and written once."""
        _, n_heads, d_key, d_value = states.memory_ZHKU.shape
        size = n_heads * d_key * d_value
        self.seconds += call_s() + memory_s(
            self.machine, n_values=len(x_TM) * size, n_bytes=2 * 4 * len(spans.positions) * size
        )
        return zeros(len(x_TM), n_heads, d_value)

    def sample(self, logits_SV: F32, batch: SampleBatch) -> NDArray[np.int64]:  # noqa: ARG002
        """The likeliest token of each row."""
        self.choose(logits_SV)
        return np.zeros(len(logits_SV), np.int64)

    def choose(self, logits_SV: F32) -> None:
        """As `sample`, greedily."""
        self.seconds += call_s() + sampling_s(self.machine, logits_SV.size)

    def step(self, n_streams: int) -> None:
        """What a step takes outside the operations."""
        self.seconds += step_s(n_streams)

    def _elementwise(self, x: F32) -> F32:
        self.seconds += call_s() + values_s(self.machine, x.size)
        return x


@dataclass(frozen=True, slots=True)
class TimedAttend:
    """The `attend` of a model on `TimedOps`: sequences that stand at `starts_S`, `n_rows` rows of each, pages of `kv_type`;
    `net` has the sizes of the layers that keep states instead."""

    ops: TimedOps
    kv_type: KvType
    starts_S: NDArray[np.int32]
    n_rows: int
    net: DeltaNetConfig | None = None

    def __call__(
        self,
        layer: int,  # noqa: ARG002  # layers are alike
        q_THK: F32,
        k_TGK: F32,
        v_TGK: F32,
        /,
        *,
        scale: float | None = None,  # noqa: ARG002
        window: int | None = None,
    ) -> F32:
        """o_THK of one layer."""
        _, n_kv_heads, d_head = k_TGK.shape
        pages = KvPages(
            type=self.kv_type,
            k_PGKB=zeros(1, n_kv_heads, d_head, PAGE_TOKENS),
            v_PGBK=zeros(1, n_kv_heads, PAGE_TOKENS, d_head),
        )
        self.ops.write_kv(k_TGK, v_TGK, pages, np.zeros(len(k_TGK), np.int64))
        return self.ops.attention(q_THK, pages, self._spans, d_head**-0.5, window)

    def recur(self, layer: int, x_TM: F32, gates_TM: F32, net: DeltaNet, /) -> F32:  # noqa: ARG002
        """o_THU of one layer."""
        assert self.net is not None
        heads = self.net.n_value_heads, self.net.d_key, self.net.d_value
        states = States(inputs_ZJM=zeros(1, *net.taps_JM.shape), memory_ZHKU=zeros(1, *heads))
        x_TM = self.ops.convolve(x_TM, net, states, self._spans)
        return self.ops.delta_rule(x_TM, gates_TM, net, states, self._spans)

    @property
    def _spans(self) -> Spans:
        n_streams = len(self.starts_S)
        return Spans(
            row_starts=np.arange(n_streams + 1, dtype=np.int32) * self.n_rows,
            positions=self.starts_S,
            page_tables_SP=np.zeros((n_streams, 1), np.int32),
        )
