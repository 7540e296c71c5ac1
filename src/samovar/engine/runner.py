"""Slices of sequences to logits: the one place where the engine meets the model."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from samovar.engine.batch import Batch, Slice, build_batch
from samovar.engine.page_pool import PagePool
from samovar.engine.paged_attend import PagedAttend
from samovar.engine.replay import Replays
from samovar.errors import BadRequest
from samovar.kernels import F32, Ops
from samovar.kernels.native import NativeOps
from samovar.models.blocks import Decoder, Step
from samovar.models.lora import AdaptedRows, LoraAdapter, adapted_rows


class Model(Protocol):
    """Token ids and positions to logits, with keys and values kept by `attend`; see `models.blocks.Decoder`."""

    def __call__(
        self,
        ids_T: NDArray[np.int64],
        positions_T: NDArray[np.int64],
        attend: PagedAttend,
        rows_S: NDArray[np.int64],
        adapted: tuple[AdaptedRows, ...] = (),
        factors_T: NDArray[np.int64] | None = None,
        /,
    ) -> F32: ...


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs a model over slices. `adapters` are those that requests may name; change them by `load` and `unload`."""

    model: Model
    ops: Ops
    pool: PagePool
    replays: Replays | None = None
    adapters: dict[str, LoraAdapter] = field(default_factory=dict)

    def load(self, name: str, adapter: LoraAdapter) -> None:
        """Let requests name this adapter. Raises BadRequest where the name is taken."""
        if name in self.adapters:
            raise BadRequest(f"adapter {name!r} is loaded already; unload it first, or choose another name", param="adapter")
        self.adapters[name] = adapter

    def unload(self, name: str) -> None:
        """Forget an adapter. No sequence that is still to be computed may name it. Raises BadRequest for an unknown name."""
        adapter = self._adapter(name)
        del self.adapters[name]
        if self.replays is not None:
            self.replays.forget(adapter)

    def run(self, slices: list[Slice]) -> F32:
        """Compute the slices: keys and values go to their pages; logits [S, V] after the last `n_logits` tokens of each.

        Raises BadRequest for a request that names an adapter which is not loaded.
        """
        with self._advancing(slices):
            return self._logits(build_batch(slices))

    def _logits(self, batch: Batch) -> F32:
        adapted = self._adapted(batch)
        if self.replays is not None and (logits_SV := self.replays.logits(batch, adapted)) is not None:
            return logits_SV
        attend = PagedAttend(self.ops, self.pool, batch)
        factors = () if batch.factors_T is None else (batch.factors_T,)
        return self.model(batch.ids_T, batch.positions_T, attend, batch.output_rows, adapted, *factors)

    def hidden(self, slices: list[Slice]) -> F32:
        """Compute the slices; the normalised state [S, D] after the last token of each. For decoders alone."""
        assert isinstance(self.model, Decoder)
        batch = build_batch(slices)
        angles, attend = self.model.angles(batch.positions_T, batch.factors_T), PagedAttend(self.ops, self.pool, batch)
        step = Step(self.ops, attend, *angles, self._adapted(batch), self.model.local_angles(batch.positions_T))
        with self._advancing(slices):
            return self.model.normalised(self.model.hidden(batch.ids_T, batch.last_rows, step))

    def labels(self, hidden_SD: F32) -> F32:
        """Logits [S, L] of the model's labels, of rows of `hidden`. For decoders that have some alone."""
        assert isinstance(self.model, Decoder)
        return self.model.label_logits(hidden_SD)

    def _advancing(self, slices: list[Slice]) -> AbstractContextManager[None]:
        """While the slices are computed, nobody may count on their states."""
        states = self.pool.states
        if states is None:
            return nullcontext()
        return states.advancing((s.sequence.state, s.start, s.end) for s in slices if s.sequence.state is not None)

    def _adapted(self, batch: Batch) -> tuple[AdaptedRows, ...]:
        """Who adapts which rows."""
        if not batch.adapters:
            return ()
        adapters = [None if name is None else self._adapter(name) for name in batch.adapters]
        return adapted_rows(adapters, batch.spans.row_starts)

    def _adapter(self, name: str) -> LoraAdapter:
        if name not in self.adapters:
            known = ", ".join(sorted(self.adapters)) or "none"
            raise BadRequest(f"adapter {name!r} is not loaded; loaded: {known}", param="adapter")
        return self.adapters[name]


def make_runner(model: Model, ops: Ops, pool: PagePool) -> Runner:
    """A runner that replays where model and operations can be recorded."""
    if isinstance(model, Decoder) and isinstance(ops, NativeOps):
        return Runner(model, ops, pool, Replays(model, ops, pool))
    return Runner(model, ops, pool)
