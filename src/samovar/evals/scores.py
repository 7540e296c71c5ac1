"""Rows of logits to what is known of them: the surprise at the next token, and the distance from a reference.

Shape letters: R rows (positions), V vocabulary. Sums over the vocabulary are in float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from samovar.errors import SamovarError

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """Of each row, beside a reference: the KL divergence of the reference from the model, sum(p * ln(p / q)) with p by the
    reference, in nats; whether both put the same token first; and the reference's own surprise."""

    kl_R: F64
    agrees_R: NDArray[np.bool_]
    surprise_R: F64


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScores:
    """Of each row -ln of the next token's probability, and the distance from a reference where there is one."""

    surprise_R: F64
    distance: Distance | None = None


def log_sums(logits_RV: F32) -> tuple[F32, F64, F64]:
    """(weights [R, V], their sums [R], ln of the sum of exp(logits) [R]): the weights are exp(logits - the row's largest).

    Raises SamovarError where a row is no numbers.
    """
    highest_R = logits_RV.max(axis=1)
    if not np.isfinite(highest_R).all():
        raise SamovarError(
            "the model's logits are no numbers: its file is damaged, or its values exceed the key and value type"
        )
    with np.errstate(over="ignore", under="ignore"):  # the distance to a logit far away is infinite, and its share nothing
        weights_RV = np.exp(logits_RV - highest_R[:, None])
    sums_R = weights_RV.sum(axis=1, dtype=np.float64)
    return weights_RV, sums_R, highest_R + np.log(sums_R)


def score_rows(logits_RV: F32, next_R: NDArray[np.int64], reference_RV: F32 | None = None) -> RowScores:
    """Scores of rows; `next_R` are the tokens that follow in the text.

    Where the two have vocabularies padded to different widths, both are cut to the narrower, and renormalised.
    """
    if reference_RV is not None and reference_RV.shape[1] != logits_RV.shape[1]:
        width = min(reference_RV.shape[1], logits_RV.shape[1])
        logits_RV, reference_RV = logits_RV[:, :width], reference_RV[:, :width]
    _, _, log_sum_R = log_sums(logits_RV)
    surprise_R = log_sum_R - np.take_along_axis(logits_RV, next_R[:, None], axis=1)[:, 0]
    if reference_RV is None:
        return RowScores(surprise_R=surprise_R)
    weights_RV, sums_R, their_log_sum_R = log_sums(reference_RV)
    # the difference of near values is exact, where that of two logarithms of shares would not be
    weights_RV *= reference_RV - logits_RV
    kl_R = weights_RV.sum(axis=1, dtype=np.float64) / sums_R - (their_log_sum_R - log_sum_R)
    distance = Distance(
        kl_R=np.maximum(kl_R, 0.0),  # below by rounding alone
        agrees_R=logits_RV.argmax(axis=1) == reference_RV.argmax(axis=1),
        surprise_R=their_log_sum_R - np.take_along_axis(reference_RV, next_R[:, None], axis=1)[:, 0],
    )
    return RowScores(surprise_R=surprise_R, distance=distance)
