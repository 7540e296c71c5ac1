"""The two figures of a machine that speed is foretold from, measured as if nothing else ran on it."""

import importlib
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from samovar.plan.costs import Machine

if TYPE_CHECKING:
    from samovar._native import Limits as NativeLimits

Clock = Callable[[], float]

_BUFFER_BYTES: Final = 512 << 20  # as in `kernels.limits`
_PASSES: Final = 9
_ROUNDS: Final = 200_000


def measure_machine(isa: str, n_threads: int) -> Machine:
    """Medians of a few passes, about a second in all on an idle machine. Takes 512 MiB meanwhile; raises MemoryError without.

    Where others had a part of the cores, a rate is what it would have been with all of their time. What others take of the
    memory's bandwidth cannot be told, and is missing.
    """
    native: NativeLimits = importlib.import_module("samovar._native").Limits(isa, n_threads, _BUFFER_BYTES)
    native.read_bytes_per_s()  # the first pass wakes the threads and maps the pages
    read = [_undisturbed(native.read_bytes_per_s, n_threads) for _ in range(_PASSES)]
    int8 = [_undisturbed(lambda: native.int8_ops_per_s(_ROUNDS), n_threads) for _ in range(_PASSES)]
    return Machine(read_bytes_per_s=statistics.median(read), int8_ops_per_s=statistics.median(int8))


def _undisturbed(
    run: Callable[[], float], n_threads: int, wall_s: Clock = time.perf_counter, cpu_s: Clock = time.process_time
) -> float:
    """The rate that `run` returns by the clock, by the processor time that its threads had."""
    wall, cpu = wall_s(), cpu_s()
    rate = run()
    wall, cpu = wall_s() - wall, cpu_s() - cpu
    return rate * max(1.0, n_threads * wall / cpu) if cpu > 0 else rate
