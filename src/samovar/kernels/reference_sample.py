"""Sampling in plain NumPy: the definition of `Ops.sample`. All ids are sorted, whether that is needed or not.

Order: mask, logit bias, penalties (float32, each step rounded), temperature, top-k, top-p, min-p; then the draw. Penalties:
repetition (Keskar et al., 2019) over all tokens before the row, presence and frequency (OpenAI) over the generated ones.
Every sum has a stated order and the exponential is made of single operations, so that the native kernel gives the same ids.
"""

import math

import numpy as np
from numpy.typing import NDArray

from samovar.kernels.sample_batch import NOT_A_NUMBER, NOTHING_ALLOWED, SampleBatch

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_BLOCK, _LANES = 1024, 16
_SMALLEST = 1e-300  # weights below count as none
_TO_INTEGER = 1.5 * 2.0**52  # adding it rounds to an integer, which the low bits of the sum hold
_LN_2_HIGH, _LN_2_LOW = 0.693145751953125, 1.4286068203094172e-06


def choose(logits_V: F32, batch: SampleBatch, row: int) -> int:
    """The id for one row, or NOTHING_ALLOWED or NOT_A_NUMBER."""
    scores_V = adjusted(logits_V, batch, row)
    top = scores_V.max()
    if not np.isfinite(top):
        return NOTHING_ALLOWED if top == -np.inf else NOT_A_NUMBER
    if batch.temperature[row] == 0:
        return int(np.argmax(scores_V))
    u = uniform(int(batch.seeds[row]), int(batch.positions[row]))
    if batch.top_p[row] == 1 and not 0 < batch.top_k[row] < len(scores_V):
        return _draw_from_all(weigh(scores_V, top, batch, row), max(float(batch.min_p[row]), _SMALLEST), u)
    ids, weights = first_kept(scores_V, batch, row)
    running = np.cumsum(weights)
    return int(ids[min(int(np.searchsorted(running, u * running[-1], side="right")), len(ids) - 1)])


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


def weigh(scores_V: F32, top: np.float32, batch: SampleBatch, row: int) -> F64:
    """e^((score - top) / temperature): n ln 2 + r, Taylor terms to r^9, no fused operations; within 1e-11."""
    inverse_temperature = min(1 / float(batch.temperature[row]), 1e300)
    with np.errstate(over="ignore"):
        y = np.maximum((scores_V.astype(np.float64) - np.float64(top)) * inverse_temperature, -700.0)
    shifted = y * 1.4426950408889634 + _TO_INTEGER
    n = shifted - _TO_INTEGER
    r = (y - n * _LN_2_HIGH) - n * _LN_2_LOW
    p = np.full_like(r, 1 / math.factorial(9))
    for k in range(8, -1, -1):
        p = p * r + 1 / math.factorial(k)
    weights = (p.view(np.uint64) + (shifted.view(np.uint64) << np.uint64(52))).view(np.float64)
    return np.where(weights >= _SMALLEST, weights, 0.0)


def first_kept(scores_V: F32, batch: SampleBatch, row: int) -> tuple[NDArray[np.int64], F64]:
    """Ids that top-k, top-p and min-p leave, most probable first, and their weights (not normalised)."""
    ids = np.argsort(-scores_V, kind="stable")
    weights = weigh(scores_V, scores_V.max(), batch, row)
    has_top_k = 0 < batch.top_k[row] < len(ids)
    total = None if has_top_k else _block_sums(weights).cumsum()[-1]
    ids = ids[: batch.top_k[row]] if has_top_k else ids
    weights = weights[ids]
    running = np.cumsum(weights)
    is_kept = np.concatenate([[0.0], running[:-1]]) < batch.top_p[row] * (running[-1] if total is None else total)
    is_kept &= weights >= max(float(batch.min_p[row]), _SMALLEST)
    is_kept[0] = True
    n_kept = len(ids) if is_kept.all() else int(np.argmin(is_kept))
    return ids[:n_kept], weights[:n_kept]


def uniform(seed: int, position: int) -> float:
    """A number from 0 up to 1 that depends on the seed and the position alone: Philox4x64 (Salmon et al., 2011)."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def _draw_from_all(weights: F64, floor: float, u: float) -> int:
    """Walk along the ids in ascending order: the sums of blocks first, then one block."""
    weights = np.where(weights >= floor, weights, 0.0)
    sums = _block_sums(weights)
    running = np.cumsum(sums)
    goal = u * running[-1]
    block = min(int(np.searchsorted(running, goal, side="right")), int(np.flatnonzero(sums)[-1]))
    before = running[block - 1] if block else 0.0
    of_block = weights[block * _BLOCK : (block + 1) * _BLOCK]
    beyond = (before + np.cumsum(of_block) > goal) & (of_block > 0)
    place = int(np.argmax(beyond)) if beyond.any() else int(np.flatnonzero(of_block)[-1])
    return block * _BLOCK + place


def _block_sums(weights: F64) -> F64:
    """Sums of blocks of 1024: 16 lanes in ascending order, then halves added down to one."""
    blocks = np.pad(weights, (0, -len(weights) % _BLOCK)).reshape(-1, _BLOCK // _LANES, _LANES)
    lanes = np.zeros((len(blocks), _LANES))
    for i in range(_BLOCK // _LANES):
        lanes += blocks[:, i]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]
