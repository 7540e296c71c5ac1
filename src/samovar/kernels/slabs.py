"""Memory for the outputs of operations that is used again: a fresh array of megabytes costs a page fault for every 4 KiB."""

import math
import threading
import weakref

import numpy as np

from samovar.kernels import F32


class Slabs:
    """Hands out arrays; the memory of one is free again when it and all its views are collected. Safe between threads."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []
        self._lock = threading.RLock()  # a collection inside `new` may call `_give_back`
        self.size_bytes = 0

    def new(self, *shape: int) -> F32:
        """An array of undefined contents on the smallest free slab that holds it."""
        n_bytes = math.prod(shape) * 4
        with self._lock:
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
        with self._lock:
            self._free.append(slab)
