"""What operations cost, in seconds, on a machine of which two figures are known: its read rate and its 8-bit rate.

A product of R rows takes the longer of two times, smoothly joined: that in which its packed bytes are read, and that in which
its weights are unpacked once for every 16 rows and multiplied R times. Both are counted in operations of the 8-bit unit
(`kernels.limits`), of which a multiplication and an addition of registers would take 2. What products take is measured
(`plan.machine.measure_machine`), since instruction sets differ. The figures here, for types that were not, and those of
attention are fitted to what is printed by

    python -m benchmarks.plan_costs [--cpu]

on 2 cores of a Zen 4 EPYC (AVX-512 with VNNI); what calls, values and steps cost to `python -m benchmarks.plan_check`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from samovar.kernels import KV_DTYPES, SCALE_BYTES, KvType

_TILE_ROWS: Final = 16
_JOIN: Final = 2.5  # exponent: 1 would add the two times up, infinity take the longer
_MOST_COMPUTING: Final = 0.9  # of a streamed product's time: beyond, what reading takes could not be told


@dataclass(frozen=True, slots=True)
class KernelCost:
    """Operations for a weight: `unpack` for every 16 rows, `dot` for every row. `read_share` of the read rate is reached
    where nothing waits for computing."""

    unpack: float
    dot: float
    read_share: float = 1.0

    @classmethod
    def measured(
        cls, one: float, many: float, streamed: float, ops_per_byte: float, *, n_rows: int, weight_bytes: float
    ) -> "KernelCost":
        """From the operations a weight of one row, and of `n_rows` rows, a multiple of 16, with weights in the caches; from the
        bytes that could have been read in the time of a `streamed` weight of one row, which takes `weight_bytes`; and from the
        operations that the machine does while it reads a byte.
        """
        n_tiles = n_rows / _TILE_ROWS
        dot = max(0.0, (many - n_tiles * one) / (n_rows - n_tiles))
        computing = min(one / ops_per_byte / streamed, _MOST_COMPUTING)
        read_share = weight_bytes / (streamed * (1 - computing**_JOIN) ** (1 / _JOIN))
        return cls(max(0.0, one - dot), dot, min(read_share, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What bounds speed: bytes read a second, 8-bit multiplications and additions a second, by all threads together.

    `kernels` are the costs that were measured, by the name of a storage type, or "int4".
    """

    read_bytes_per_s: float
    int8_ops_per_s: float
    kernels: Mapping[str, KernelCost] = field(default_factory=dict)


_KERNELS: Final = {
    "int4": KernelCost(3.0, 2.6, 0.95),
    "Q4_0": KernelCost(3.0, 3.1),
    "Q4_1": KernelCost(4.0, 3.3),
    "Q5_0": KernelCost(6.0, 3.4),
    "Q5_1": KernelCost(6.0, 3.5),
    "Q8_0": KernelCost(9.0, 2.9, 0.88),
    "Q4_K": KernelCost(3.5, 3.25),
    "Q5_K": KernelCost(8.0, 3.5),
    "Q6_K": KernelCost(4.5, 3.7),
    "BF16": KernelCost(14.0, 8.8),
    "F16": KernelCost(14.0, 8.8),
    "F32": KernelCost(14.0, 8.8),
}
_BY_PREFIX: Final = (
    ("U4", KernelCost(4.0, 3.3)),
    ("U8", KernelCost(8.0, 3.0, 0.88)),
    ("E4M3", KernelCost(20.0, 8.8)),
    ("E5M2", KernelCost(20.0, 8.8)),
)
_OTHER: Final = KernelCost(8.0, 4.0)  # types of 2 to 4 bits with tables

# Operations for each multiplication or addition of attention; one row reads and converts what many rows share.
_ATTEND_ONE: Final[dict[KvType, float]] = {"f32": 5.2, "f16": 7.5, "bf16": 7.5, "int8": 11.6}
_ATTEND_MANY: Final[dict[KvType, float]] = {"f32": 6.9, "f16": 7.0, "bf16": 7.0, "int8": 7.3}
_ATTEND_READ_SHARE: Final[dict[KvType, float]] = {"f32": 0.40, "f16": 0.33, "bf16": 0.33, "int8": 0.30}

# Of a gated delta rule: operations for each value of a memory and token, and the share of the read rate that is reached.
_MEMORY_OPS: Final = 50.0
_MEMORY_SHARE: Final = 0.65
_CONVOLVED_VALUES: Final = 16.0  # values of an elementwise operation that one convolved value counts for

_CALL_S: Final = 3e-6  # to wake the threads for an operation, and to wait for the last of them
_VALUE_OPS: Final = 25.0  # for each value of an elementwise operation
_ROUND_OPS: Final = 12.0  # to round each value that goes into quantised products
_SAMPLE_OPS: Final = 12.0  # for each logit of a row
_STEP_S: Final = 350e-6  # of Python, for a step
_STREAM_S: Final = 14e-6  # of Python, for each sequence in a step


def kernel_cost(kernel: str) -> KernelCost:
    """By the name of a storage type, or "int4", where it was not measured."""
    if (found := _KERNELS.get(kernel)) is not None:
        return found
    return next((cost for prefix, cost in _BY_PREFIX if kernel.startswith(prefix)), _OTHER)


def joined(one_s: float, other_s: float) -> float:
    """The time of two things that go on at once: little more than the longer, up to a third more where they are equal."""
    longer, shorter = max(one_s, other_s), min(one_s, other_s)
    return longer * (1 + (shorter / longer) ** _JOIN) ** (1 / _JOIN) if longer else 0.0


def product_s(machine: Machine, kernel: str, *, n_bytes: float, n_weights: float, n_rows: float) -> float:
    """Seconds of a product of `n_rows` rows with `n_weights` weights that take `n_bytes`, without the call's own cost."""
    cost = machine.kernels.get(kernel) or kernel_cost(kernel)
    n_ops = n_weights * (cost.unpack * max(1.0, n_rows / _TILE_ROWS) + cost.dot * n_rows)
    return joined(n_bytes / (cost.read_share * machine.read_bytes_per_s), n_ops / machine.int8_ops_per_s)


def attention_s(
    machine: Machine, kv_type: KvType, *, n_pairs: float, n_read_tokens: float, d_query: int, d_key: int, rows: float
) -> float:
    """Seconds of a layer's attention: `n_pairs` of a row and a position, keys and values of `n_read_tokens` read once.

    `d_query` and `d_key` are all heads' widths together, `rows` the rows of one sequence.
    """
    n_bytes = 2 * n_read_tokens * (d_key * KV_DTYPES[kv_type].itemsize + (SCALE_BYTES if kv_type == "int8" else 0))
    cost = (_ATTEND_ONE if rows < 2 else _ATTEND_MANY)[kv_type]
    n_ops = 4 * n_pairs * d_query * cost
    return joined(n_bytes / (_ATTEND_READ_SHARE[kv_type] * machine.read_bytes_per_s), n_ops / machine.int8_ops_per_s)


def memory_s(machine: Machine, *, n_values: float, n_bytes: float) -> float:
    """Seconds of a gated delta rule: `n_values` of memories, each counted for every token; `n_bytes` are read and written."""
    return n_values * _MEMORY_OPS / machine.int8_ops_per_s + n_bytes / (_MEMORY_SHARE * machine.read_bytes_per_s)


def convolution_s(machine: Machine, n_values: float) -> float:
    """Seconds to convolve `n_values` inputs, each with a few before it."""
    return values_s(machine, n_values * _CONVOLVED_VALUES)


def values_s(machine: Machine, n_values: float, *, is_rounding: bool = False) -> float:
    """Seconds of an elementwise operation, or of rounding a product's input."""
    return n_values * (_ROUND_OPS if is_rounding else _VALUE_OPS) / machine.int8_ops_per_s


def sampling_s(machine: Machine, n_logits: float) -> float:
    """Seconds to take the largest of each row of logits."""
    return n_logits * _SAMPLE_OPS / machine.int8_ops_per_s


def call_s() -> float:
    """Seconds that any operation takes."""
    return _CALL_S


def step_s(n_streams: int) -> float:
    """Seconds of a step outside the operations."""
    return _STEP_S + _STREAM_S * n_streams


def expected_distinct(n_experts: int, n_chosen: int, n_rows: int) -> float:
    """Experts that some of `n_rows` rows choose, where each chooses as if by lot; rows that are alike choose fewer."""
    return n_experts * -math.expm1(n_rows * math.log1p(-n_chosen / n_experts)) if n_chosen < n_experts else float(n_experts)
