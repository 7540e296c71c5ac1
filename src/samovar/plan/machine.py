"""The figures of a machine that speed is foretold from, measured as if nothing else ran on it."""

import importlib
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from samovar.kernels import Linear
from samovar.kernels.native import NativeOps, native_ops
from samovar.plan.costs import KernelCost, Machine
from samovar.tensors.dtypes import GROUPED_TYPES, Q8_0, TENSOR_TYPES
from samovar.tensors.stored import StoredTensor

if TYPE_CHECKING:
    from samovar._native import Limits as NativeLimits

Clock = Callable[[], float]

_BUFFER_BYTES: Final = 512 << 20  # as in `kernels.limits`
_PASSES: Final = 9
_ROUNDS: Final = 200_000
_N_IN, _MANY_ROWS = 2048, 32  # of products
_ONE_OUT: Final = 512  # rows of weights that the second-level caches hold
_MANY_OUT: Final = 1024  # so many that rounding the inputs counts for little, as in a model
_STREAMED_OUT: Final = 4096  # of a piece of the weights that no cache holds: as large as a model's matrices
_STREAMED_BYTES: Final = 192 << 20
_COST_PASSES, _SHORT_ROUNDS = 15, 20_000


def measure_machine(isa: str, n_threads: int, kernels: Iterable[str] = ()) -> Machine:
    """Medians of a few passes, about a second in all on an idle machine, and another for each of `kernels`, names of storage
    types or "int4". Takes 900 MiB meanwhile; raises MemoryError without.

    Where others had a part of the cores, a rate is what it would have been with all of their time. What others take of the
    memory's bandwidth cannot be told, and is missing.
    """
    limits = _limits(isa, n_threads, _BUFFER_BYTES)
    read = [_undisturbed(limits.read_bytes_per_s, n_threads) for _ in range(_PASSES)]
    int8 = [_undisturbed(lambda: limits.int8_ops_per_s(_ROUNDS), n_threads) for _ in range(_PASSES)]
    ops = native_ops(isa, n_threads)
    costs = {kernel: _measured_cost(ops, kernel) for kernel in kernels}
    return Machine(read_bytes_per_s=statistics.median(read), int8_ops_per_s=statistics.median(int8), kernels=costs)


def _measured_cost(ops: NativeOps, kernel: str) -> KernelCost:
    """Of products with weights in the caches, and with others that have to be read.

    Short passes alternate with those of the machine's limits, and the third best of each are compared: a host that is slow
    for a while slows both, time that others take now and then is left out, and so are a few passes of rare luck. The weights
    are zeros: what a kernel computes with does not change its time.
    """
    types = {type_.name: type_ for type_ in (*TENSOR_TYPES, *GROUPED_TYPES)}
    type_ = Q8_0 if kernel == "int4" else types[kernel]

    def packed(n_out: int) -> Linear:
        n_bytes = n_out * _N_IN // type_.block_elements * type_.block_bytes
        stored = StoredTensor(name=kernel, type=type_, shape=(n_out, _N_IN), data=np.zeros(n_bytes, np.uint8), source="zeros")
        return ops.pack(stored, "int4" if kernel == "int4" else "stored")

    def weights_per_s(weights: Sequence[Linear], n_rows: int, n_runs: int) -> float:
        x_TD = np.ones((n_rows, _N_IN), np.float32)
        start = time.perf_counter()
        for _ in range(n_runs):
            for weight in weights:
                ops.linear(x_TD, weight)
        return n_runs * sum(weight.n_out for weight in weights) * _N_IN / (time.perf_counter() - start)

    cached, shared, streamed = [packed(_ONE_OUT)], [packed(_MANY_OUT)], [packed(_STREAMED_OUT)]
    while len(streamed) * streamed[0].size_bytes < _STREAMED_BYTES:
        streamed.append(packed(_STREAMED_OUT))
    limits = _limits(ops.isa, ops.n_threads, _STREAMED_BYTES)
    passes = [
        (
            limits.int8_ops_per_s(_SHORT_ROUNDS),
            limits.read_bytes_per_s(),
            weights_per_s(cached, 1, _MANY_ROWS),
            weights_per_s(shared, _MANY_ROWS, 1),
            weights_per_s(streamed, 1, 1),
        )
        for _ in range(_COST_PASSES)
    ]
    int8, read, one, many, from_memory = (sorted(column)[-3] for column in zip(*passes, strict=True))
    weight_bytes = streamed[0].size_bytes / (streamed[0].n_out * _N_IN)
    return KernelCost.measured(
        int8 / one, int8 / many, read / from_memory, int8 / read, n_rows=_MANY_ROWS, weight_bytes=weight_bytes
    )


def _limits(isa: str, n_threads: int, buffer_bytes: int) -> "NativeLimits":
    """Its first pass, which wakes the threads and maps the pages, is behind it."""
    limits: NativeLimits = importlib.import_module("samovar._native").Limits(isa, n_threads, buffer_bytes)
    limits.read_bytes_per_s()
    return limits


def _undisturbed(
    run: Callable[[], float], n_threads: int, wall_s: Clock = time.perf_counter, cpu_s: Clock = time.process_time
) -> float:
    """The rate that `run` returns by the clock, by the processor time that its threads had."""
    wall, cpu = wall_s(), cpu_s()
    rate = run()
    wall, cpu = wall_s() - wall, cpu_s() - cpu
    return rate * max(1.0, n_threads * wall / cpu) if cpu > 0 else rate
