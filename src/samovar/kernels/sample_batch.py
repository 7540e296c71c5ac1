"""What `Ops.sample` needs to know beside the logits, for S rows at once; and how it says that no token can be chosen."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from samovar.errors import NoTokenLeft
from samovar.kernels.finite import NUMBER_EXPECTED

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_I64 = NDArray[np.int64]

NOTHING_ALLOWED, NOT_A_NUMBER = -1, -2  # what a kernel gives instead of an id


class SampleBatch(NamedTuple):
    """One value a row [S]; for the meaning of each see `engine.request.SamplingParams`, whose ranges hold.

    `positions` is the number of tokens before the row: with the seed, all that a draw depends on. Two lists a row, laid end
    to end, row s from `starts[s]` to `starts[s + 1]` ([S + 1]): `seen_ids` are the distinct tokens before the row, each with
    how often it occurs in the answer (0: in the prompt only); `bias_ids` are distinct ids with what is added to their logits.
    A row without penalties needs no list of seen tokens. `mask_SW` is uint32 [S, ceil(V / 32)]: id i is allowed where bit
    i % 32 of word i // 32 is set.

    A tuple, since each step makes one; in the order in which the compiled code takes them.
    """

    temperature: _F64
    top_k: _I64
    top_p: _F64
    min_p: _F64
    repetition_penalty: _F32
    presence_penalty: _F32
    frequency_penalty: _F32
    seeds: NDArray[np.uint64]
    positions: NDArray[np.uint64]
    seen_starts: _I64
    seen_ids: _I64
    seen_counts: _I64
    bias_starts: _I64
    bias_ids: _I64
    bias_values: _F32
    mask_SW: NDArray[np.uint32] | None


def refuse_failed(ids_S: _I64, logits_SV: _F32) -> None:
    """Raise NoTokenLeft for the first row that has no id."""
    if min(ids_S.tolist(), default=0) >= 0:  # for a few rows quicker than array expressions
        return
    for row in np.flatnonzero(ids_S < 0).tolist():
        if ids_S[row] == NOTHING_ALLOWED:
            what = "every token is forbidden by the grammar or has a logit of minus infinity: loosen the grammar"
        elif (odd := np.flatnonzero(np.isnan(logits_SV[row]) | np.isposinf(logits_SV[row]))).size:
            what = f"the logit of token {odd[0]} is {logits_SV[row, odd[0]]}, {NUMBER_EXPECTED}"
        else:
            what = "a penalty makes a logit infinite: choose penalties nearer to 1 (repetition) or 0 (the others)"
        raise NoTokenLeft(f"no token can be chosen for row {row} of the batch: {what}", row=row)
