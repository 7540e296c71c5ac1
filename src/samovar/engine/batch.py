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
    """The slices of a step laid end to end: T tokens of S sequences. Logits are wanted after the tokens at `output_rows`."""

    ids_T: NDArray[np.int64]
    positions_T: NDArray[np.int64]
    slots_T: NDArray[np.int64]
    spans: Spans
    output_rows: NDArray[np.int64]


def build_batch(slices: list[Slice]) -> Batch:
    """Lay the slices out. Each sequence must hold pages for its slice already."""
    counts = np.array([len(s.token_ids) for s in slices])
    starts = np.array([s.start for s in slices])
    tables = [s.sequence.pages for s in slices]
    table_SP = np.zeros((len(slices), max(map(len, tables))), np.int32)
    for row, pages in zip(table_SP, tables, strict=True):
        row[: len(pages)] = pages
    row_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    owner_T = np.repeat(np.arange(len(slices)), counts)
    positions_T = np.arange(row_starts[-1]) - row_starts[owner_T] + starts[owner_T]
    slots_T = table_SP[owner_T, positions_T // PAGE_TOKENS].astype(np.int64) * PAGE_TOKENS + positions_T % PAGE_TOKENS
    ends = row_starts[1:].tolist()
    output_rows = [row for s, end in zip(slices, ends, strict=True) for row in range(end - s.n_logits, end)]
    return Batch(
        ids_T=np.array([token for s in slices for token in s.token_ids], np.int64),
        positions_T=positions_T.astype(np.int64),
        slots_T=slots_T,
        spans=Spans(row_starts=row_starts, positions=starts.astype(np.int32), page_tables_SP=table_SP),
        output_rows=np.array(output_rows, np.int64),
    )
