"""The `attend` of a model: keys and values live in pages, recurrent states in slots."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.engine.batch import Batch
from samovar.engine.page_pool import PagePool
from samovar.kernels import DeltaNet, Ops

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PagedAttend:
    """Writes a step's keys and values into their pages, and attends to what precedes; see `models.blocks.Attend`."""

    ops: Ops
    pool: PagePool
    batch: Batch

    def __call__(
        self, layer: int, q_THK: F32, k_TGK: F32, v_TGK: F32, /, *, scale: float | None = None, window: int | None = None
    ) -> F32:
        """o_THK of one layer."""
        pages = self.pool.layers[layer]
        self.ops.write_kv(k_TGK, v_TGK, pages, self.batch.slots_T)
        scale = 1 / math.sqrt(q_THK.shape[-1]) if scale is None else scale
        return self.ops.attention(q_THK, pages, self.batch.spans, scale, window)

    def recur(self, layer: int, x_TM: F32, gates_TM: F32, net: DeltaNet, /) -> F32:
        """o_THU of one gated delta net."""
        assert self.pool.states is not None
        states, spans = self.pool.states.layers[layer], self.batch.spans
        return self.ops.delta_rule(self.ops.convolve(x_TM, net, states, spans), gates_TM, net, states, spans)
