"""Slices of sequences to logits: the one place where the engine meets the model."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samovar.engine.batch import Slice, build_batch
from samovar.engine.page_pool import PagePool
from samovar.engine.paged_attend import PagedAttend
from samovar.kernels import Ops

F32 = NDArray[np.float32]


class Model(Protocol):
    """Token ids and positions to logits, with keys and values kept by `attend`; see `models.blocks.Decoder`."""

    def __call__(
        self, ids_T: NDArray[np.int64], positions_T: NDArray[np.int64], attend: PagedAttend, rows_S: NDArray[np.int64], /
    ) -> F32: ...


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs a model over slices."""

    model: Model
    ops: Ops
    pool: PagePool

    def run(self, slices: list[Slice]) -> F32:
        """Compute the slices: keys and values go to their pages; logits [S, V] after the last `n_logits` tokens of each."""
        batch = build_batch(slices)
        return self.model(batch.ids_T, batch.positions_T, PagedAttend(self.ops, self.pool, batch), batch.output_rows)
