"""Log-probabilities of tokens, from rows of logits. Each row's figures depend on that row alone, to the last bit."""

import math

import numpy as np
from numpy.typing import NDArray

from samovar.engine.request import Logprob


def logprob(logits_V: NDArray[np.float32], token_id: int, n_top: int) -> Logprob:
    """The natural log-probability of a token under softmax(logits), and the `n_top` likeliest; of equals, lower ids come
    first."""
    highest = logits_V.max()
    with np.errstate(over="ignore"):  # the distance to a logit far away is infinite, and its share nothing
        log_sum = float(highest) + math.log(float(np.exp(logits_V - highest).sum(dtype=np.float64)))
    top = tuple((i, float(logits_V[i]) - log_sum) for i in _top(logits_V, n_top))
    return Logprob(float(logits_V[token_id]) - log_sum, top)


def _top(logits_V: NDArray[np.float32], n: int) -> list[int]:
    if not n:
        return []
    n = min(n, len(logits_V))
    least = np.partition(logits_V, -n)[-n]
    (ids,) = np.nonzero(logits_V >= least)
    return [int(i) for i in ids[np.argsort(-logits_V[ids], kind="stable")][:n]]
