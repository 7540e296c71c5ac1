"""Low-rank adapters (LoRA, Hu et al., 2021, arXiv 2106.09685): y + scale * B A x, for the rows that ask for it.

An adapter is packed in the types of its file, and its scale is part of B. Rows are computed by the same operations as all
else, so a row's result depends on the row and on its adapter alone. Shape letters: see `samovar.kernels`; R is a rank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.kernels import F32, Activation, Linear, Ops
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
    """Rows `start` to `stop` of a step, which one adapter changes."""

    adapter: LoraAdapter
    start: int
    stop: int

    def add(
        self,
        ops: Ops,
        projections: tuple[Projection, ...],
        outs_TN: tuple[F32, ...],
        x_TD: F32,
        *,
        norm: tuple[F32, float] | None = None,
        gate_TD: F32 | None = None,
        activation: Activation = "silu",
    ) -> None:
        """Add this adapter's terms to the outputs of `projections`, in place.

        The other arguments are those that made the outputs: the input, with a norm or a gate where the products had one.
        """
        found = [(self.adapter.terms.get(p.name), out_TN) for p, out_TN in zip(projections, outs_TN, strict=True)]
        terms = [(term, out_TN) for term, out_TN in found if term is not None]
        if not terms:
            return
        x_TD = x_TD[self.start : self.stop]
        if gate_TD is not None:
            gate = ops.silu_gate if activation == "silu" else ops.gelu_gate
            x_TD = gate(gate_TD[self.start : self.stop], x_TD)
        lows = ops.linears(x_TD, tuple(term.a for term, _ in terms), norm=norm)
        for (term, out_TN), low_TR in zip(terms, lows, strict=True):
            ops.accumulate(ops.linear(low_TR, term.b), out_TN[self.start : self.stop])


def adapted_rows(adapters: Sequence[LoraAdapter | None], row_starts: NDArray[np.int32]) -> tuple[AdaptedRows, ...]:
    """Who adapts which rows, where `adapters[s]` is that of rows `row_starts[s]` to `row_starts[s + 1]`.

    Weights are read once for each run of neighbours with the same adapter.
    """
    parts: list[AdaptedRows] = []
    bounds = row_starts.tolist()
    for adapter, start, stop in zip(adapters, bounds, bounds[1:], strict=False):
        if adapter is None or start == stop:
            continue
        if parts and parts[-1].adapter is adapter and parts[-1].stop == start:
            parts[-1] = AdaptedRows(adapter, parts[-1].start, stop)
        else:
            parts.append(AdaptedRows(adapter, start, stop))
    return tuple(parts)
