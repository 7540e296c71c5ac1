"""What this machine can do at most with some threads and an instruction set: the measure for the speed of a model."""

import importlib
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from samovar._native import Limits as NativeLimits

_BUFFER_BYTES: Final = 512 << 20  # several times the last-level cache of common processors
_PASSES: Final = 7
_ROUNDS: Final = 200_000  # about a hundredth of a second on a fast processor


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Memory read in one plain pass by all threads, and 8-bit multiplications and additions in registers, each a second."""

    read_bytes_per_s: float
    int8_ops_per_s: float


def measure_limits(isa: str, n_threads: int) -> Limits:
    """Medians of a few passes, about a second in all. Takes 512 MiB of memory meanwhile; raises MemoryError without them.

    The 8-bit figure is that of the vector units, of codes of 4 bits; matrix units (AMX) are not asked.
    """
    native: NativeLimits = importlib.import_module("samovar._native").Limits(isa, n_threads, _BUFFER_BYTES)
    native.read_bytes_per_s()  # the first pass wakes the threads and maps the pages
    return Limits(
        read_bytes_per_s=statistics.median(native.read_bytes_per_s() for _ in range(_PASSES)),
        int8_ops_per_s=statistics.median(native.int8_ops_per_s(_ROUNDS) for _ in range(_PASSES)),
    )
