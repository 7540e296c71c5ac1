"""Rows of logits to token ids: gathers what sampling needs to know of each row's sequence, and calls the kernel once.

What is computed, and in which order, is defined in `kernels.reference_sample`. The random number of a token depends on the
request's seed and the token's position alone, so an answer can be replayed whatever ran beside it.
"""

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from samovar.engine.request import SamplingParams
from samovar.engine.sequence import Sequence
from samovar.errors import NoTokenLeft, SamovarError
from samovar.kernels import Ops
from samovar.kernels.sample_batch import SampleBatch

F32 = NDArray[np.float32]
_I64 = NDArray[np.int64]

_NO_IDS: _I64 = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of logits: those after the sequence's tokens, followed by `draft_ids`, which it does not hold yet."""

    sequence: Sequence
    draft_ids: tuple[int, ...] = ()


def sample_rows(ops: Ops, logits_SV: F32, rows: list[Row]) -> list[int]:
    """The token id that follows each row. Changes no sequence, beyond counting the tokens it holds.

    Raises NoTokenLeft for a row whose logits are no numbers, or whose grammar allows no token.
    """
    if not rows:
        return []
    ids: list[int] = ops.sample(logits_SV, _batch(rows, logits_SV.shape[1])).tolist()
    return ids


def _batch(rows: list[Row], vocab_size: int) -> SampleBatch:
    params = tuple([row.sequence.request.sampling for row in rows])
    make, has_penalty = _settings(params)
    positions = np.array([len(row.sequence.token_ids) + len(row.draft_ids) for row in rows], np.uint64)
    mask_SW = _masks(rows, vocab_size)
    if not has_penalty:
        return make(positions=positions, mask_SW=mask_SW)
    seen = [_seen(row, p) for row, p in zip(rows, params, strict=True)]
    return make(
        positions=positions,
        mask_SW=mask_SW,
        seen_starts=_starts([len(ids) for ids, _ in seen]),
        seen_ids=np.concatenate([ids for ids, _ in seen]),
        seen_counts=np.concatenate([counts for _, counts in seen]),
    )


@lru_cache(maxsize=16)  # the same requests ask at each step
def _settings(params: tuple[SamplingParams, ...]) -> tuple[partial[SampleBatch], bool]:
    """A batch but for positions and masks, with no seen tokens unless they are given; and whether any row has a penalty."""
    biases = [p.logit_bias for p in params]
    make = partial(
        SampleBatch,
        temperature=np.array([p.temperature for p in params], np.float64),
        top_k=np.array([p.top_k for p in params], np.int64),
        top_p=np.array([p.top_p for p in params], np.float64),
        min_p=np.array([p.min_p for p in params], np.float64),
        repetition_penalty=np.array([p.repetition_penalty for p in params], np.float32),
        presence_penalty=np.array([p.presence_penalty for p in params], np.float32),
        frequency_penalty=np.array([p.frequency_penalty for p in params], np.float32),
        seeds=np.array([p.seed for p in params], np.uint64),
        seen_starts=np.zeros(len(params) + 1, np.int64),
        seen_ids=_NO_IDS,
        seen_counts=_NO_IDS,
        bias_starts=_starts([len(bias) for bias in biases]),
        bias_ids=np.array([token_id for bias in biases for token_id, _ in bias], np.int64),
        bias_values=np.array([value for bias in biases for _, value in bias], np.float32),
    )
    return make, any(p.has_penalty for p in params)


def _seen(row: Row, params: SamplingParams) -> tuple[_I64, _I64]:
    """Distinct ids before the row, and how often each was generated; none where no penalty asks for them."""
    if not params.has_penalty:
        return _NO_IDS, _NO_IDS
    sequence = row.sequence
    sequence.counts.catch_up(sequence.token_ids, sequence.n_prompt)
    return sequence.counts.arrays(row.draft_ids)


def _masks(rows: list[Row], vocab_size: int) -> NDArray[np.uint32] | None:
    """What grammars and forbidden tokens leave, [S, ceil(V / 32)]; None where nothing is forbidden."""
    limited = [(i, row.sequence) for i, row in enumerate(rows) if row.sequence.is_guided or row.sequence.forbidden_ids]
    if not limited:
        return None
    mask_SW = np.full((len(rows), -(-vocab_size // 32)), 0xFFFFFFFF, np.uint32)
    for i, sequence in limited:
        if sequence.is_guided and sequence.matcher is not None:
            try:
                sequence.matcher.mask(mask_SW[i])
            except SamovarError as error:
                raise NoTokenLeft(str(error), row=i) from error
        for token_id in sequence.forbidden_ids:
            mask_SW[i, token_id // 32] &= np.uint32(~(1 << token_id % 32) & 0xFFFFFFFF)
    return mask_SW


def _starts(lengths: list[int]) -> _I64:
    return np.cumsum([0, *lengths], dtype=np.int64)
