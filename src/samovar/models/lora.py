"""Low-rank adapters (LoRA, Hu et al., 2021, arXiv 2106.09685): y + scale * B A x, for the rows that ask for it.

An adapter is packed in the types of its file, and its scale is part of B. Rows are computed by the same operations as all
else, so a row's result depends on the row and on its adapter alone. Shape letters: see `samovar.kernels`; R is a rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.kernels import F32, Linear, Ops
from samovar.models.weights import Projection


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one linear layer: B A, with A [R, n_in], and B [n_out, R] that holds the scale."""

    a: Linear
    b: Linear


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoraAdapter:
    """An adapter in memory: a term for each linear layer that it changes, by the layer's Hugging Face name."""

    terms: Mapping[str, LowRank]

    @property
    def size_bytes(self) -> int:
        """Resident bytes."""
        return sum(term.a.size_bytes + term.b.size_bytes for term in self.terms.values())


@dataclass(frozen=True, slots=True)
class AdaptedRows:
    """Rows of a step that one adapter changes. A range or a list of them; None stands for all."""

    adapter: LoraAdapter
    rows: slice | NDArray[np.int64] | None

    def add(
        self,
        ops: Ops,
        projections: tuple[Projection, ...],
        outs_TN: tuple[F32, ...],
        x_TD: F32,
        *,
        norm: tuple[F32, float] | None = None,
        gate_TD: F32 | None = None,
    ) -> tuple[F32, ...]:
        """The outputs of `projections` with this adapter's terms added, in these arrays or in others.

        The arguments are those that made the outputs: the input, with a norm or a gate where the products had one.
        """
        terms = [self.adapter.terms.get(projection.name) for projection in projections]
        a = tuple(term.a for term in terms if term is not None)
        if not a:
            return outs_TN
        x_TD = self._take(x_TD)
        if gate_TD is None:
            lows = iter(ops.linears(x_TD, a, norm=norm))
        else:
            lows = iter([ops.linear(x_TD, one, gate_TD=self._take(gate_TD)) for one in a])
        return tuple(
            out_TN if term is None else self._put(out_TN, ops.linear(next(lows), term.b, residual_TN=self._take(out_TN)))
            for out_TN, term in zip(outs_TN, terms, strict=True)
        )

    def _take(self, x_TD: F32) -> F32:
        return x_TD if self.rows is None else x_TD[self.rows]

    def _put(self, all_TN: F32, some_TN: F32) -> F32:
        if self.rows is None:
            return some_TN
        all_TN[self.rows] = some_TN
        return all_TN


def adapted_rows(adapters: Sequence[LoraAdapter | None], row_starts: NDArray[np.int32]) -> tuple[AdaptedRows, ...]:
    """Who adapts which rows, where `adapters[s]` is that of rows `row_starts[s]` to `row_starts[s + 1]`."""
    bounds = row_starts.tolist()
    rows_of: dict[LoraAdapter, list[int]] = {}
    for s, adapter in enumerate(adapters):
        if adapter is not None:
            rows_of.setdefault(adapter, []).extend(range(bounds[s], bounds[s + 1]))
    return tuple(AdaptedRows(adapter, _compact(rows, bounds[-1])) for adapter, rows in rows_of.items() if rows)


def _compact(rows: list[int], n_rows: int) -> slice | NDArray[np.int64] | None:
    """Ascending row numbers in the form that costs least to take."""
    if len(rows) == n_rows:
        return None
    if rows[-1] - rows[0] == len(rows) - 1:
        return slice(rows[0], rows[-1] + 1)
    return np.array(rows, np.int64)
