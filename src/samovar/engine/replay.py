"""Steps of a shape that came before, run in one native call.

Python takes microseconds for each operation of each layer, which small steps wait for. So the second step of a shape is
recorded (`kernels.recorder`), and later ones fill the recorded step's input buffers and run it. Results have the same bits.
With adapters, which rows each one changes is part of the shape.
"""

import weakref
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.engine.batch import Batch
from samovar.engine.page_pool import PagePool
from samovar.engine.paged_attend import PagedAttend
from samovar.kernels import F32, PAGE_TOKENS, Spans
from samovar.kernels.native import NativeOps
from samovar.kernels.recorder import RecordingOps
from samovar.kernels.slabs import Slabs
from samovar.models.blocks import Decoder, Step
from samovar.models.lora import AdaptedRows, LoraAdapter

MAX_ROWS = 64
"""Rows of a step beyond which Python's share is too small to matter."""

MAX_SHAPES = 64
"""Shapes of steps that are remembered; the one not met for longest is forgotten."""

MAX_LENT = 4
"""Steps whose logits may be held at once. Usually two: while a step runs, the caller has the logits of the one before."""

_BLOCK_POSITIONS = 256

_Shape = tuple[int, int, int, tuple[AdaptedRows, ...]]
"""Of a step: tokens, sequences, rows of logits, and the rows that adapters change."""


class Angles:
    """Cosines and sines [C, R] of the rotation at each position that a pool of pages has room for, by YaRN's factor in turn.

    They are computed in blocks, as far as steps have come, and stay in place: recorded steps take their rows from them. `local`
    are those of layers with a window, in models that rotate those by other angles.
    """

    def __init__(self, model: Decoder, n_positions: int) -> None:
        self._model = model
        n_pairs, long = len(model.config.rope.inv_freq_R), model.config.long_context
        sizes = {1: n_positions}
        if long is not None:
            sizes |= {factor: min(n_positions, long.reach(factor)) for factor in long.ropes if factor != 1}
        self._sections: dict[int, slice] = {}
        for factor, size in sizes.items():
            start = sum(sizes[other] for other in self._sections)
            self._sections[factor] = slice(start, start + size)
        self._n_known = dict.fromkeys(sizes, 0)
        self.cos_CR, self.sin_CR = (np.empty((sum(sizes.values()), n_pairs), np.float32) for _ in range(2))
        other = model.config.local_rope
        assert other is None or long is None, "layers with a window have one rotation"
        self.local = None if other is None else other.tables(np.zeros(n_positions, np.int64))

    def reach(self, position: int, factor: int = 1) -> None:
        """Have the angles up to `position`, as far as there is room."""
        section = self._sections[factor]
        while (n_known := self._n_known[factor]) <= position and n_known < section.stop - section.start:
            n_next = min(n_known + _BLOCK_POSITIONS, section.stop - section.start)
            block, positions_T = slice(section.start + n_known, section.start + n_next), np.arange(n_known, n_next)
            factors_T = None if factor == 1 else np.full(n_next - n_known, factor)
            self.cos_CR[block], self.sin_CR[block] = self._model.angles(positions_T, factors_T)
            if self.local is not None and (found := self._model.local_angles(positions_T)) is not None:
                self.local[0][block], self.local[1][block] = found
            self._n_known[factor] = n_next

    def rows(self, batch: Batch) -> NDArray[np.int64]:
        """The rows [T] of a step's tokens, whose angles are there from here on."""
        if batch.factors_T is None:
            self.reach(max(batch.positions_T.tolist()))
            return batch.positions_T
        positions, factors = batch.positions_T.tolist(), batch.factors_T.tolist()
        for position, factor in zip(positions, factors, strict=True):
            self.reach(position, factor)
            assert position < self._n_known[factor], (position, factor)
        starts = [self._sections[factor].start for factor in factors]
        return batch.positions_T + np.array(starts, np.int64)


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A pass through the model and its input buffers; `angle_rows_T` are rows of the tables of `Angles`."""

    ops: RecordingOps
    batch: Batch
    angle_rows_T: NDArray[np.int64]

    @classmethod
    def record(
        cls,
        model: Decoder,
        ops: RecordingOps,
        pool: PagePool,
        angles: Angles,
        like: Batch,
        results_N: F32,
        adapted: tuple[AdaptedRows, ...] = (),
    ) -> "RecordedStep":
        """Record a step of the shape of `like`, whose logits come to lie at the start of `results_N`."""
        spans = Spans(
            row_starts=like.spans.row_starts.copy(),
            positions=like.spans.positions.copy(),
            page_tables_SP=np.zeros((len(like.spans.positions), pool.n_pages), np.int32),
            states_S=like.spans.states_S.copy(),
        )
        batch = Batch(
            ids_T=like.ids_T.copy(), positions_T=like.positions_T.copy(), slots_T=like.slots_T.copy(), spans=spans,
            output_rows=like.output_rows.copy(),
        )  # fmt: skip
        angle_rows_T = batch.positions_T.copy()
        cos_TR, sin_TR = (ops.take_rows(table, angle_rows_T) for table in (angles.cos_CR, angles.sin_CR))
        local = None
        if angles.local is not None:
            local = ops.take_rows(angles.local[0], angle_rows_T), ops.take_rows(angles.local[1], angle_rows_T)
        step = Step(ops, PagedAttend(ops, pool, batch), cos_TR, sin_TR, adapted, local)
        x_SD = model.hidden(batch.ids_T, batch.output_rows, step)
        if len(x_SD):
            ops.place_next(results_N)
            model.logits(x_SD, ops)
        return cls(ops, batch, angle_rows_T)

    def run(self, batch: Batch, angle_rows_T: NDArray[np.int64]) -> None:
        """Compute another step of this shape. Its angles must be there."""
        mine, spans = self.batch, batch.spans
        mine.ids_T[:] = batch.ids_T
        mine.positions_T[:] = batch.positions_T
        self.angle_rows_T[:] = angle_rows_T
        mine.slots_T[:] = batch.slots_T
        mine.output_rows[:] = batch.output_rows
        mine.spans.row_starts[:] = spans.row_starts
        mine.spans.positions[:] = spans.positions
        mine.spans.states_S[:] = spans.states_S
        mine.spans.page_tables_SP[:, : spans.page_tables_SP.shape[1]] = spans.page_tables_SP
        self.ops.run()


class Results:
    """Pieces of memory for the logits of recorded steps, each as large as any of them needs.

    A piece is lent again when nobody holds a view of it any more.
    """

    def __init__(self, n_elements: int) -> None:
        self._n_elements = n_elements
        self._pieces: list[memoryview] = []
        self._lent: list[weakref.ref[F32]] = []

    def lend(self) -> tuple[int, F32] | None:
        """The number of a piece that is free, and an array on it; None when all are held."""
        number = 0
        while number < len(self._lent) and self._lent[number]() is not None:
            number += 1
        if number == MAX_LENT:
            return None
        if number == len(self._pieces):
            self._pieces.append(np.empty(self._n_elements, np.float32).data)
        results_N = np.frombuffer(self._pieces[number], np.float32)  # every view, and views of those, have it as their base
        self._lent[number : number + 1] = [weakref.ref(results_N)]
        return number, results_N


class Replays:
    """The recorded steps of one model on one pool of pages."""

    def __init__(self, model: Decoder, ops: NativeOps, pool: PagePool) -> None:
        self._model, self._ops, self._pool = model, ops, pool
        self.slabs = Slabs()
        self._angles = Angles(model, pool.n_pages * PAGE_TOKENS)
        self._results = Results(MAX_ROWS * model.config.vocab_size)
        # by shape, and by the piece of memory that the logits come to lie in; none yet for a shape that was met once
        self._steps: OrderedDict[_Shape, dict[int, RecordedStep]] = OrderedDict()

    def logits(self, batch: Batch, adapted: tuple[AdaptedRows, ...] = ()) -> F32 | None:
        """Logits [S, V] after the tokens at `output_rows`; None for a large or new shape, or while too many are held."""
        n_rows, n_outputs, vocab_size = len(batch.ids_T), len(batch.output_rows), self._model.config.vocab_size
        if n_rows > MAX_ROWS:
            return None
        shape = n_rows, len(batch.spans.positions), n_outputs, adapted
        steps = self._steps.pop(shape, None)
        self._steps[shape] = {} if steps is None else steps
        if len(self._steps) > MAX_SHAPES:
            self._steps.popitem(last=False)
        if steps is None or (lent := self._results.lend()) is None:
            return None
        piece, results_N = lent
        if (step := steps.get(piece)) is None:
            ops = RecordingOps(self._ops, self.slabs)
            step = steps[piece] = RecordedStep.record(self._model, ops, self._pool, self._angles, batch, results_N, adapted)
        step.run(batch, self._angles.rows(batch))
        return results_N[: n_outputs * vocab_size].reshape(n_outputs, vocab_size)

    def forget(self, adapter: LoraAdapter) -> None:
        """Drop the steps recorded with an adapter, which hold its weights."""
        for shape in [shape for shape in self._steps if any(part.adapter is adapter for part in shape[3])]:
            del self._steps[shape]
