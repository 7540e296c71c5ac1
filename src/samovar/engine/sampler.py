"""Logits to a token id: penalties, temperature, top-k, top-p, min-p, and a draw that can be repeated.

The random number of a token is Philox4x64 (Salmon et al., 2011) keyed by the request's seed, with the token's position as
its counter: it depends on nothing else, so an answer can be replayed whatever ran beside it. Ties go to the lower id.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samovar.engine.request import SamplingParams

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

_FIRST_CANDIDATES = 256


def sample(logits_V: F32, params: SamplingParams, token_ids: Sequence[int], n_prompt: int) -> int:
    """Choose the token that follows `token_ids`, of which the first `n_prompt` are the prompt."""
    logits_V = penalise(logits_V, params, token_ids, n_prompt)
    if params.temperature == 0:
        return int(np.argmax(logits_V))
    ids, probabilities = candidates(logits_V, params)
    draw = uniform(params.seed, len(token_ids)) * probabilities.sum()
    return int(ids[min(int(np.searchsorted(np.cumsum(probabilities), draw, side="right")), len(ids) - 1)])


def uniform(seed: int, position: int) -> float:
    """A number from 0 up to 1 that depends on the seed and the position alone."""
    return float(np.random.Generator(np.random.Philox(key=seed, counter=position)).random())


def penalise(logits_V: F32, params: SamplingParams, token_ids: Sequence[int], n_prompt: int) -> F32:
    """Repetition penalty over all tokens (Keskar et al., 2019); presence and frequency over the generated ones."""
    if params.repetition_penalty == 1 and params.presence_penalty == 0 and params.frequency_penalty == 0:
        return logits_V
    logits_V = logits_V.copy()
    seen = np.unique(np.fromiter(token_ids, np.int64))
    values = logits_V[seen]
    penalty = np.float32(params.repetition_penalty)
    logits_V[seen] = np.where(values > 0, values / penalty, values * penalty)
    counts = Counter(token_ids[n_prompt:])
    if counts:
        ids = np.fromiter(counts.keys(), np.int64)
        times = np.fromiter(counts.values(), np.float32)
        logits_V[ids] -= np.float32(params.presence_penalty) + np.float32(params.frequency_penalty) * times
    return logits_V


def candidates(logits_V: F32, params: SamplingParams) -> tuple[NDArray[np.int64], F64]:
    """Ids that top-k, top-p and min-p leave, most probable first, and their weights (not normalised).

    top-p keeps the smallest set whose share of what top-k left reaches `top_p`. Sorting all of a large vocabulary is
    avoided: the few best are sorted first, and more only when they do not reach.
    """
    with np.errstate(over="ignore"):  # a tiny temperature sends all but the largest to minus infinity, which is right
        weights_V = np.exp((logits_V.astype(np.float64) - float(logits_V.max())) / params.temperature)
    n_kept = min(params.top_k or len(weights_V), len(weights_V))
    if params.top_p == 1 and n_kept == len(weights_V):
        ids = np.flatnonzero(weights_V >= max(params.min_p, np.finfo(np.float64).tiny))
        return ids, weights_V[ids]
    total = None if n_kept < len(weights_V) else weights_V.sum()
    n_sorted = n_kept if total is None else min(_FIRST_CANDIDATES, n_kept)
    while True:
        ids = _largest(logits_V, n_sorted)
        weights = weights_V[ids]
        before = np.cumsum(weights) - weights
        goal = params.top_p * (weights.sum() if total is None else total)
        if n_sorted == n_kept or before[-1] + weights[-1] >= goal:
            keep = (before < goal) & (weights >= params.min_p)
            keep[0] = True
            return ids[keep], weights[keep]
        n_sorted = min(n_sorted * 8, n_kept)


def _largest(logits_V: F32, n: int) -> NDArray[np.int64]:
    """Ids of the n largest, largest first; among equals the lower id first and preferred."""
    if n < len(logits_V):
        threshold = np.partition(logits_V, len(logits_V) - n)[len(logits_V) - n]
        ids = np.flatnonzero(logits_V >= threshold)
    else:
        ids = np.arange(len(logits_V))
    return ids[np.argsort(-logits_V[ids], kind="stable")][:n]
