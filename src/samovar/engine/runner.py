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

    def run(self, slices: list[Slice], *, all_rows: bool = False) -> F32:
        """Compute the slices.

        Logits [S, V], one row for each slice that brings its sequence up to date, in order; with `all_rows` [T, V], one
        for every token.
        """
        batch = build_batch(slices)
        is_current_S = np.array([s.start + s.count == len(s.sequence.token_ids) for s in slices])
        rows = np.arange(len(batch.ids_T)) if all_rows else batch.last_rows_S[is_current_S]
        logits = self.model(batch.ids_T, batch.positions_T, PagedAttend(self.ops, self.pool, batch), rows)
        for piece in slices:
            piece.sequence.n_computed = piece.start + piece.count
        return logits
