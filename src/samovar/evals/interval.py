"""Means with intervals, by a bootstrap that draws blocks of neighbouring positions (Kuensch, 1989, Annals of Statistics 17).

Neighbouring tokens are alike, so single positions would give intervals that are too narrow. A block is up to BLOCK consecutive
scored positions of one window. Blocks are drawn with replacement, as many as there are; the interval holds the middle 95 % of
what is computed from N_DRAWS such draws. The draws depend on the number of blocks alone, so models are compared on the same
blocks of the same windows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BLOCK: Final = 64
N_DRAWS: Final = 2000
LEAST_BLOCKS: Final = 8  # for an interval
_TAILS: Final = (0.025, 0.975)
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval; None where there are too few blocks for one."""

    value: float
    low: float | None = None
    high: float | None = None

    def scaled(self, by: float) -> "Estimate":
        """The same in another unit."""
        low, high = (None if edge is None else by * edge for edge in (self.low, self.high))
        return Estimate(by * self.value, low, high)


def block_starts(window_lengths: Sequence[int]) -> NDArray[np.int64]:
    """[N]: where blocks begin, of windows with so many scored positions each that lie one behind the other."""
    starts: list[int] = []
    at = 0
    for length in window_lengths:
        starts += range(at, at + length, BLOCK)
        at += length
    return np.array(starts, np.int64)


def estimate(values_P: F64, starts_N: NDArray[np.int64], read: Callable[[F64], F64] = lambda mean: mean) -> Estimate:
    """`read` of the mean over positions P; `starts_N` as `block_starts` gives them."""
    sums_N = np.add.reduceat(values_P, starts_N)
    counts_N = np.diff(np.append(starts_N, len(values_P))).astype(np.float64)
    value = float(read(np.array([sums_N.sum() / counts_N.sum()]))[0])
    n = len(starts_N)
    if n < LEAST_BLOCKS:
        return Estimate(value)
    drawn_MN = np.random.default_rng(n).integers(n, size=(N_DRAWS, n))
    means_M = sums_N[drawn_MN].sum(axis=1) / counts_N[drawn_MN].sum(axis=1)
    low, high = np.quantile(read(means_M), _TAILS)
    return Estimate(value, float(low), float(high))
