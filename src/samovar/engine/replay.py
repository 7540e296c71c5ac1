"""Steps of a shape that came before, run in one native call.

Python takes microseconds for each operation of each layer, which small steps wait for. So the second step of a shape is
recorded (`kernels.recorder`), and later ones fill the recorded step's input buffers and run it. Results have the same bits.

With adapters, which rows each one changes is part of the shape.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from samovar.engine.batch import Batch
from samovar.engine.page_pool import PagePool
from samovar.engine.paged_attend import PagedAttend
from samovar.kernels import F32, Spans
from samovar.kernels.native import NativeOps
from samovar.kernels.recorder import RecordingOps
from samovar.kernels.slabs import Slabs
from samovar.models.blocks import Decoder, Step
from samovar.models.lora import AdaptedRows, LoraAdapter

MAX_ROWS = 64
"""Rows of a step beyond which Python's share is too small to matter."""

MAX_SHAPES = 64
"""Shapes of steps that are remembered; the one not met for longest is forgotten."""

_Shape = tuple[int, int, tuple[AdaptedRows, ...]]
"""Of a step: tokens, sequences, and the rows that adapters change."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A pass through the layers, its input buffers and its result."""

    ops: RecordingOps
    batch: Batch
    angles: tuple[F32, F32]
    x_TD: F32

    @classmethod
    def record(
        cls, model: Decoder, ops: RecordingOps, pool: PagePool, like: Batch, adapted: tuple[AdaptedRows, ...] = ()
    ) -> "RecordedStep":
        """Record a step of the shape of `like`."""
        spans = Spans(
            row_starts=like.spans.row_starts.copy(),
            positions=like.spans.positions.copy(),
            page_tables_SP=np.zeros((len(like.spans.positions), pool.n_pages), np.int32),
        )
        batch = Batch(
            ids_T=like.ids_T.copy(), positions_T=like.positions_T, slots_T=like.slots_T.copy(), spans=spans,
            output_rows=like.output_rows,
        )  # fmt: skip
        angles = model.angles(like.positions_T)
        return cls(ops, batch, angles, model.hidden(batch.ids_T, Step(ops, PagedAttend(ops, pool, batch), *angles, adapted)))

    def run(self, batch: Batch, angles: tuple[F32, F32]) -> F32:
        """[T, D] after the last layer; overwritten by the next step."""
        mine, spans = self.batch, batch.spans
        mine.ids_T[:] = batch.ids_T
        mine.slots_T[:] = batch.slots_T
        mine.spans.row_starts[:] = spans.row_starts
        mine.spans.positions[:] = spans.positions
        mine.spans.page_tables_SP[:, : spans.page_tables_SP.shape[1]] = spans.page_tables_SP
        for buffer, values in zip(self.angles, angles, strict=True):
            buffer[:] = values
        self.ops.run()
        return self.x_TD


class Replays:
    """The recorded steps of one model on one pool of pages."""

    def __init__(self, model: Decoder, ops: NativeOps, pool: PagePool) -> None:
        self.model, self._ops, self._pool = model, ops, pool
        self.slabs = Slabs()
        self._steps: OrderedDict[_Shape, RecordedStep | None] = OrderedDict()  # None: met once

    def hidden(self, batch: Batch, adapted: tuple[AdaptedRows, ...] = ()) -> F32 | None:
        """[T, D] after the last layer, overwritten by the next call; None for a shape that is large or new."""
        shape = len(batch.ids_T), len(batch.spans.positions), adapted
        if shape[0] > MAX_ROWS:
            return None
        is_new = shape not in self._steps
        step = self._steps.pop(shape, None)
        if step is None and not is_new:
            step = RecordedStep.record(self.model, RecordingOps(self._ops, self.slabs), self._pool, batch, adapted)
        self._steps[shape] = step
        if len(self._steps) > MAX_SHAPES:
            self._steps.popitem(last=False)
        return None if step is None else step.run(batch, self.model.angles(batch.positions_T))

    def forget(self, adapter: LoraAdapter) -> None:
        """Drop the steps recorded with an adapter, which hold its weights."""
        for shape in [shape for shape in self._steps if any(part.adapter is adapter for part in shape[2])]:
            del self._steps[shape]
