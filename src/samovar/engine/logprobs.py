"""Log-probabilities of tokens, from rows of logits. Each row's figures depend on that row alone, to the last bit."""

import numpy as np
from numpy.typing import NDArray

from samovar.engine.request import Logprob


def logprob(logits_V: NDArray[np.float32], token_id: int, n_top: int) -> Logprob:
    """The natural log-probability of a token under softmax(logits), and the `n_top` likeliest; of equals, lower ids come
    first."""
    wide_V = logits_V.astype(np.float64)
    highest = wide_V.max()
    log_sum = highest + np.log(np.exp(wide_V - highest).sum())
    return Logprob(float(wide_V[token_id] - log_sum), tuple((i, float(wide_V[i] - log_sum)) for i in _top(logits_V, n_top)))


def _top(logits_V: NDArray[np.float32], n: int) -> list[int]:
    if not n:
        return []
    n = min(n, len(logits_V))
    least = np.partition(logits_V, -n)[-n]
    (ids,) = np.nonzero(logits_V >= least)
    return [int(i) for i in ids[np.argsort(-logits_V[ids], kind="stable")][:n]]
