"""Sampling in plain NumPy: the definition of `Ops.sample`. All ids are sorted, whether that is needed or not.

Order: mask, logit bias, penalties (float32, each step rounded), temperature, top-k, top-p, min-p; then the draw. Penalties:
repetition (Keskar et al., 2019) over all tokens before the row, presence and frequency (OpenAI) over the generated ones.
Weights are multiples of 2^-34, so that their sums are exact in any order, and the exponential is made of single operations:
the native kernel gives the same ids.
"""

import math

import numpy as np
from numpy.typing import NDArray

from samovar.kernels.sample_batch import NOT_A_NUMBER, NOTHING_ALLOWED, SampleBatch

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_UNIT = 2.0**-34
_TO_UNITS = 1.5 * 2.0**18  # adding it rounds to a multiple of the unit
_TO_INTEGER = 1.5 * 2.0**52  # adding it rounds to an integer, which the low bits of the sum hold
_LN_2_HIGH, _LN_2_LOW = 0.693145751953125, 1.4286068203094172e-06
_MOST_LOGITS = 1 << 19  # of weight 1 at most, so that sums stay below 2^53 units


def choose(logits_V: F32, batch: SampleBatch, row: int) -> int:
    """The id for one row, or NOTHING_ALLOWED or NOT_A_NUMBER."""
    scores_V = adjusted(logits_V, batch, row)
    top = scores_V.max()
    if not np.isfinite(top):
        return NOTHING_ALLOWED if top == -np.inf else NOT_A_NUMBER
    if batch.temperature[row] == 0:
        return int(np.argmax(scores_V))
    ids, weights = kept(scores_V, batch, row)
    running = np.cumsum(weights)
    goal = min(uniform(int(batch.seeds[row]), int(batch.positions[row])) * running[-1], running[-1] - _UNIT)
    return int(ids[np.searchsorted(running, goal, side="right")])


def adjusted(logits_V: F32, batch: SampleBatch, row: int) -> F32:
    """Logits under mask, bias and penalties."""
    scores_V = logits_V.copy()
    if batch.mask_SW is not None:
        bits = np.unpackbits(batch.mask_SW[row].astype("<u4").view(np.uint8), bitorder="little")
        scores_V[bits[: len(scores_V)] == 0] = -np.inf
    of_row = slice(batch.bias_starts[row], batch.bias_starts[row + 1])
    scores_V[batch.bias_ids[of_row]] += batch.bias_values[of_row]
    of_row = slice(batch.seen_starts[row], batch.seen_starts[row + 1])
    ids, counts = batch.seen_ids[of_row], batch.seen_counts[of_row]
    repetition = batch.repetition_penalty[row]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        scores = np.where(scores_V[ids] > 0, scores_V[ids] / repetition, scores_V[ids] * repetition)
    less = batch.presence_penalty[row] + batch.frequency_penalty[row] * counts.astype(np.float32)
    scores_V[ids] = np.where(counts > 0, scores - less, scores)
    return scores_V


def weigh(scores_V: F32, batch: SampleBatch, row: int) -> F64:
    """e^((score - largest) / temperature) in whole units: n ln 2 + r, Taylor terms to r^8, within 3e-10 of itself."""
    assert len(scores_V) <= _MOST_LOGITS
    inverse_temperature = min(1 / float(batch.temperature[row]), 1e300)
    with np.errstate(over="ignore"):
        y = np.maximum((scores_V.astype(np.float64) - np.float64(scores_V.max())) * inverse_temperature, -25.0)
    shifted = y * 1.4426950408889634 + _TO_INTEGER
    n = shifted - _TO_INTEGER
    r = (y - n * _LN_2_HIGH) - n * _LN_2_LOW
    p = np.full_like(r, 1 / math.factorial(8))
    for k in range(7, -1, -1):
        p = p * r + 1 / math.factorial(k)
    powers = (p.view(np.uint64) + (shifted.view(np.uint64) << np.uint64(52))).view(np.float64)
    weights: F64 = (powers + _TO_UNITS) - _TO_UNITS
    return weights


def kept(scores_V: F32, batch: SampleBatch, row: int) -> tuple[NDArray[np.int64], F64]:
    """Ids that top-k, top-p and min-p leave, and their weights (not normalised): the most probable first, or in ascending
    order where neither top-k nor top-p is in use."""
    has_top_k = 0 < batch.top_k[row] < len(scores_V)
    is_cut = has_top_k or batch.top_p[row] < 1
    ids = np.argsort(-scores_V, kind="stable") if is_cut else np.arange(len(scores_V))
    ids = ids[: batch.top_k[row]] if has_top_k else ids
    weights = weigh(scores_V, batch, row)[ids]
    running = np.cumsum(weights)
    is_kept = (running - weights < batch.top_p[row] * running[-1]) & (weights >= max(float(batch.min_p[row]), _UNIT))
    return ids[is_kept], weights[is_kept]


def uniform(seed: int, position: int) -> float:
    """A number from 0 up to 1 that depends on the seed and the position alone: Philox4x64 (Salmon et al., 2011)."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())
