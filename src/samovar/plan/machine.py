"""The figures of a machine that speed is foretold from, measured as if nothing else ran on it."""

import importlib
import statistics
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import numpy as np

from samovar.kernels.native import NativeOps, native_ops
from samovar.plan.costs import KernelCost, Machine, kernel_cost
from samovar.tensors.dtypes import GROUPED_TYPES, Q8_0, TENSOR_TYPES
from samovar.tensors.stored import StoredTensor

if TYPE_CHECKING:
    from samovar._native import Limits as NativeLimits

Clock = Callable[[], float]

_BUFFER_BYTES: Final = 512 << 20  # as in `kernels.limits`
_PASSES: Final = 9
_ROUNDS: Final = 200_000
_N_OUT, _N_IN, _MANY_ROWS = 512, 2048, 64  # of products: weights that the second-level caches hold


def measure_machine(isa: str, n_threads: int, kernels: Iterable[str] = ()) -> Machine:
    """Medians of a few passes, about a second in all on an idle machine, and a tenth for each of `kernels`, names of storage
    types or "int4". Takes 512 MiB meanwhile; raises MemoryError without.

    Where others had a part of the cores, a rate is what it would have been with all of their time. What others take of the
    memory's bandwidth cannot be told, and is missing.
    """
    native: NativeLimits = importlib.import_module("samovar._native").Limits(isa, n_threads, _BUFFER_BYTES)
    native.read_bytes_per_s()  # the first pass wakes the threads and maps the pages
    read = [_undisturbed(native.read_bytes_per_s, n_threads) for _ in range(_PASSES)]
    int8 = [_undisturbed(lambda: native.int8_ops_per_s(_ROUNDS), n_threads) for _ in range(_PASSES)]
    ops = native_ops(isa, n_threads)
    best_int8 = max(native.int8_ops_per_s(_ROUNDS) for _ in range(_PASSES))
    costs = {kernel: _measured_cost(ops, kernel, best_int8) for kernel in kernels}
    return Machine(read_bytes_per_s=statistics.median(read), int8_ops_per_s=statistics.median(int8), kernels=costs)


def _measured_cost(ops: NativeOps, kernel: str, int8_ops_per_s: float) -> KernelCost:
    """Of products with weights that lie in the caches, by their best passes, as the 8-bit rate is.

    The weights are zeros: what a kernel computes with does not change its time.
    """
    types = {type_.name: type_ for type_ in (*TENSOR_TYPES, *GROUPED_TYPES)}
    type_ = Q8_0 if kernel == "int4" else types[kernel]
    n_bytes = _N_OUT * _N_IN // type_.block_elements * type_.block_bytes
    stored = StoredTensor(name=kernel, type=type_, shape=(_N_OUT, _N_IN), data=np.zeros(n_bytes, np.uint8), source="zeros")
    weight = ops.pack(stored, "int4" if kernel == "int4" else "stored")

    def ops_a_weight(n_rows: int) -> float:
        x_TD = np.ones((n_rows, _N_IN), np.float32)
        n_runs = max(1, _MANY_ROWS // n_rows)

        def run() -> float:
            start = time.perf_counter()
            for _ in range(n_runs):
                ops.linear(x_TD, weight)
            return n_runs * stored.n_elements / (time.perf_counter() - start)

        return int8_ops_per_s / max(run() for _ in range(_PASSES))

    return KernelCost.measured(ops_a_weight(1), ops_a_weight(_MANY_ROWS), _MANY_ROWS, kernel_cost(kernel).read_share)


def _undisturbed(
    run: Callable[[], float], n_threads: int, wall_s: Clock = time.perf_counter, cpu_s: Clock = time.process_time
) -> float:
    """The rate that `run` returns by the clock, by the processor time that its threads had."""
    wall, cpu = wall_s(), cpu_s()
    rate = run()
    wall, cpu = wall_s() - wall, cpu_s() - cpu
    return rate * max(1.0, n_threads * wall / cpu) if cpu > 0 else rate
