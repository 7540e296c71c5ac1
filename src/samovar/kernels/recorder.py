"""Operations that are written down instead of computed, so that a step of the same shape can run again in one native call.

The model's own code does the recording: it is run once with `RecordingOps` in place of the operations it stands on.
"""

import importlib
import math
from typing import TYPE_CHECKING

from samovar.kernels import F32
from samovar.kernels.native import NativeOps
from samovar.kernels.slabs import Slabs

if TYPE_CHECKING:
    from samovar._native import Program


class RecordingOps(NativeOps):
    """Implements `samovar.kernels.Ops` on the kernels of `ops`: outputs have their shapes, and their values after `run`.

    All arguments of the calls are read when the program runs, so the caller keeps them alive and in place: weights, pages and
    the buffers that it refills between runs. Outputs may be dropped, all but those that are read after a run. Everything must
    go through operations: a value computed beside them is computed once, from undefined numbers.
    """

    def __init__(self, ops: NativeOps, slabs: Slabs) -> None:
        self._isa, self._engine, self._codebooks, self._slabs = ops.isa, ops._engine, ops._codebooks, slabs
        self._program: Program = importlib.import_module("samovar._native").Program(ops._engine)
        self._target = self._program
        self._place: F32 | None = None

    def place_next(self, memory_N: F32) -> None:
        """The next output lies at the start of `memory_N`, which is large enough."""
        self._place = memory_N

    def run(self) -> None:
        """Make the recorded calls, in their order. Raises ValueError for an id, slot or page in a buffer that is not there."""
        self._program.run()

    def _new(self, *shape: int) -> F32:
        if self._place is None:
            return self._slabs.new(*shape)
        memory_N, self._place = self._place, None
        return memory_N[: math.prod(shape)].reshape(shape)
