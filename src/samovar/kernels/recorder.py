"""Operations that are written down instead of computed, so that a step of the same shape can run again in one native call.

The model's own code does the recording: it is run once with `RecordingOps` in place of the operations it stands on.
"""

import importlib
import math
import weakref
from typing import TYPE_CHECKING

import numpy as np

from samovar.kernels import F32
from samovar.kernels.native import NativeOps

if TYPE_CHECKING:
    from samovar._native import Program


class Slabs:
    """Memory for the outputs of recorded calls, shared by all programs of an engine.

    A slab is free again when the array on it is collected: whatever is recorded after that is run after the array's last use.
    """

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self.size_bytes = 0

    def new(self, *shape: int) -> F32:
        """An array of undefined contents on the smallest free slab that holds it."""
        n_bytes = math.prod(shape) * 4
        fitting = [i for i, slab in enumerate(self._free) if slab.nbytes >= n_bytes]
        if fitting:
            slab = self._free.pop(min(fitting, key=lambda i: self._free[i].nbytes))
        else:
            slab = np.empty(-(-n_bytes // 4096) * 4096, np.uint8).data
            self.size_bytes += slab.nbytes
        owner = np.frombuffer(slab, np.float32, n_bytes // 4)  # every view of it, and views of those, have it as their base
        weakref.finalize(owner, self._give_back, slab).atexit = False
        return owner.reshape(shape)

    def _give_back(self, slab: memoryview) -> None:
        self._free.append(slab)


class RecordingOps(NativeOps):
    """Implements `samovar.kernels.Ops` on the kernels of `ops`: outputs have their shapes, and their values after `run`.

    All arguments of the calls are read when the program runs, so the caller keeps them alive and in place: weights, pages and
    the buffers that it refills between runs. Outputs may be dropped, all but those that are read after a run. Everything must
    go through operations: a value computed beside them is computed once, from undefined numbers.
    """

    def __init__(self, ops: NativeOps, slabs: Slabs) -> None:
        self._isa, self._engine, self._slabs = ops.isa, ops._engine, slabs
        self._program: Program = importlib.import_module("samovar._native").Program(ops._engine)
        self._target = self._program

    def run(self) -> None:
        """Make the recorded calls, in their order. Raises ValueError for an id, slot or page in a buffer that is not there."""
        self._program.run()

    def _new(self, *shape: int) -> F32:
        return self._slabs.new(*shape)
