"""One step's work as arrays: which tokens of which sequences, where they stand, and where their keys and values go."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.engine.sequence import Sequence
from samovar.kernels import PAGE_TOKENS, Spans


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens of a sequence to be computed in this step, from position `start` on.

    `token_ids` are given rather than looked up: the last `n_drafts` are guesses that the sequence does not hold. Logits are
    wanted after the last `n_logits` of them.
    """

    sequence: Sequence
    start: int
    token_ids: tuple[int, ...]
    n_logits: int
    n_drafts: int = 0

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + len(self.token_ids)

    @property
    def drafts(self) -> tuple[int, ...]:
        """The guesses."""
        return self.token_ids[len(self.token_ids) - self.n_drafts :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The slices of a step laid end to end: T tokens of S sequences. Logits are wanted after the tokens at `output_rows`.

    `adapters` names the adapter of each sequence in the order of `spans`; it is empty where none has one. Sequences with the
    same adapter are neighbours there, whatever the order of the slices; `output_rows` and `last_rows` follow the slices.
    `factors_T` are the YaRN factors of the tokens; None where all are 1.
    """

    ids_T: NDArray[np.int64]
    positions_T: NDArray[np.int64]
    slots_T: NDArray[np.int64]
    spans: Spans
    output_rows: NDArray[np.int64]
    factors_T: NDArray[np.int64] | None = None
    adapters: tuple[str | None, ...] = ()
    order: tuple[int, ...] = ()
    """With adapters, the slices' numbers in the order of `spans`."""

    @property
    def last_rows(self) -> NDArray[np.int64]:
        """[S]: the row of the last token of each slice."""
        rows_S = (self.spans.row_starts[1:] - 1).astype(np.int64)
        return rows_S[np.argsort(self.order)] if self.order else rows_S


def build_batch(slices: list[Slice]) -> Batch:
    """Lay the slices out. Each sequence must hold pages for its slice already.

    Lists, not array expressions: most steps have a row or a few, for which each NumPy call costs more than all rows together.
    """
    order = _by_adapter(slices)
    if order:
        slices = [slices[i] for i in order]
    width = max([len(piece.sequence.pages) for piece in slices])
    table_SP = np.zeros((len(slices), width), np.int32)
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    outputs: list[range] = []
    starts: list[int] = []
    row_starts = [0]
    for s, piece in enumerate(slices):
        start, pages = piece.start, piece.sequence.pages
        table_SP[s, : len(pages)] = pages
        ids += piece.token_ids
        for position in range(start, start + len(piece.token_ids)):
            positions.append(position)
            slots.append(pages[position // PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS)
        end = len(ids)
        outputs.append(range(end - piece.n_logits, end))
        starts.append(start)
        row_starts.append(end)
    if order:
        outputs = [rows for _, rows in sorted(zip(order, outputs, strict=True))]
    return Batch(
        ids_T=np.array(ids, np.int64),
        positions_T=np.array(positions, np.int64),
        slots_T=np.array(slots, np.int64),
        spans=Spans(
            row_starts=np.array(row_starts, np.int32),
            positions=np.array(starts, np.int32),
            page_tables_SP=table_SP,
            states_S=np.array([s.sequence.state for s in slices if s.sequence.state is not None], np.int32),
        ),
        output_rows=np.array([row for rows in outputs for row in rows], np.int64),
        factors_T=_factors(slices),
        adapters=tuple([s.sequence.request.adapter for s in slices]) if order else (),
        order=order,
    )


def _factors(slices: list[Slice]) -> NDArray[np.int64] | None:
    factors = [piece.sequence.factor for piece in slices]
    if factors.count(1) == len(factors):
        return None
    return np.repeat(np.array(factors, np.int64), [len(piece.token_ids) for piece in slices])


def _by_adapter(slices: list[Slice]) -> tuple[int, ...]:
    """The slices' numbers in an order that brings those with the same adapter together; none where none has one."""
    names = [s.sequence.request.adapter for s in slices]
    if names.count(None) == len(names):
        return ()
    return tuple(sorted(range(len(names)), key=lambda i: (names[i] is not None, names[i] or "")))
