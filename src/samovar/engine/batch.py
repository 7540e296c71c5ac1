"""One step's work as arrays: which tokens of which sequences, where they stand, and where their keys and values go."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.engine.sequence import Sequence
from samovar.kernels import PAGE_TOKENS, Spans


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens of a sequence to be computed in this step, from position `start` on.

    `token_ids` are given rather than looked up: some may be drafts that the sequence does not hold. Logits are wanted after
    the last `n_logits` of them.
    """

    sequence: Sequence
    start: int
    token_ids: tuple[int, ...]
    n_logits: int

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.start + len(self.token_ids)

    @property
    def drafts(self) -> tuple[int, ...]:
        """The tokens after the first whose logits are wanted, which the sequence may turn out not to have."""
        return self.token_ids[len(self.token_ids) - self.n_logits + 1 :]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The slices of a step laid end to end: T tokens of S sequences. Logits are wanted after the tokens at `output_rows`.

    `adapters` names the adapter of each sequence in the order of `spans`; it is empty where none has one. Sequences with the
    same adapter are neighbours there, whatever the order of the slices; `output_rows` follow the slices.
    """

    ids_T: NDArray[np.int64]
    positions_T: NDArray[np.int64]
    slots_T: NDArray[np.int64]
    spans: Spans
    output_rows: NDArray[np.int64]
    adapters: tuple[str | None, ...] = ()


def build_batch(slices: list[Slice]) -> Batch:
    """Lay the slices out. Each sequence must hold pages for its slice already.

    Lists, not array expressions: most steps have a row or a few, for which each NumPy call costs more than all rows together.
    """
    order = _by_adapter(slices)
    if order is not None:
        slices = [slices[i] for i in order]
    tables = [s.sequence.pages for s in slices]
    table_SP = np.zeros((len(slices), max(map(len, tables))), np.int32)
    positions: list[int] = []
    slots: list[int] = []
    outputs: list[range] = []
    row_starts = [0]
    for row, piece, pages in zip(table_SP, slices, tables, strict=True):
        row[: len(pages)] = pages
        for position in range(piece.start, piece.end):
            positions.append(position)
            slots.append(pages[position // PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS)
        row_starts.append(len(positions))
        outputs.append(range(len(positions) - piece.n_logits, len(positions)))
    if order is not None:
        outputs = [rows for _, rows in sorted(zip(order, outputs, strict=True))]
    return Batch(
        ids_T=np.array([token for s in slices for token in s.token_ids], np.int64),
        positions_T=np.array(positions, np.int64),
        slots_T=np.array(slots, np.int64),
        spans=Spans(
            row_starts=np.array(row_starts, np.int32),
            positions=np.array([s.start for s in slices], np.int32),
            page_tables_SP=table_SP,
        ),
        output_rows=np.array([row for rows in outputs for row in rows], np.int64),
        adapters=() if order is None else tuple(s.sequence.request.adapter for s in slices),
    )


def _by_adapter(slices: list[Slice]) -> list[int] | None:
    """The slices' numbers in an order that brings those with the same adapter together; None where none has one."""
    names = [s.sequence.request.adapter for s in slices]
    if all(name is None for name in names):
        return None
    return sorted(range(len(names)), key=lambda i: (names[i] is not None, names[i] or ""))
