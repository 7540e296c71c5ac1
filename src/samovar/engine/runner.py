"""Slices of sequences to logits: the one place where the engine meets the model."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samovar.engine.batch import Slice, build_batch
from samovar.engine.page_pool import PagePool
from samovar.engine.paged_attend import PagedAttend
from samovar.engine.replay import Replays
from samovar.kernels import F32, Ops
from samovar.kernels.native import NativeOps
from samovar.models.blocks import Decoder, Step


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
    replays: Replays | None = None

    def run(self, slices: list[Slice]) -> F32:
        """Compute the slices: keys and values go to their pages; logits [S, V] after the last `n_logits` tokens of each."""
        batch = build_batch(slices)
        if self.replays is not None and (logits_SV := self.replays.logits(batch)) is not None:
            return logits_SV
        return self.model(batch.ids_T, batch.positions_T, PagedAttend(self.ops, self.pool, batch), batch.output_rows)

    def hidden(self, slices: list[Slice]) -> F32:
        """Compute the slices; the normalised state [S, D] after the last token of each. For decoders alone."""
        assert isinstance(self.model, Decoder)
        batch = build_batch(slices)
        step = Step(self.ops, PagedAttend(self.ops, self.pool, batch), *self.model.angles(batch.positions_T))
        last_rows = (batch.spans.row_starts[1:] - 1).astype(np.int64)
        return self.model.normalised(self.model.hidden(batch.ids_T, last_rows, step))


def make_runner(model: Model, ops: Ops, pool: PagePool) -> Runner:
    """A runner that replays where model and operations can be recorded."""
    if isinstance(model, Decoder) and isinstance(ops, NativeOps):
        return Runner(model, ops, pool, Replays(model, ops, pool))
    return Runner(model, ops, pool)
