"""Scores of rows against the definitions, in float64."""

import numpy as np
import pytest

from samovar.errors import SamovarError
from samovar.evals.scores import score_rows
from tests.evals.conftest import log_softmax

RNG = np.random.default_rng(1)
LOGITS_RV = RNG.normal(0, 4, (40, 300)).astype(np.float32)
NOISE_RV = RNG.normal(0, 0.3, (40, 300)).astype(np.float32)
NEXT_R = RNG.integers(0, 300, 40)


def test_scores_are_those_of_the_definitions() -> None:
    found = score_rows(LOGITS_RV + NOISE_RV, NEXT_R, LOGITS_RV)
    log_p_RV, log_q_RV = (log_softmax(x) for x in (LOGITS_RV, LOGITS_RV + NOISE_RV))
    rows = np.arange(40)
    np.testing.assert_allclose(found.surprise_R, -log_q_RV[rows, NEXT_R], rtol=1e-6)
    assert found.distance is not None
    np.testing.assert_allclose(found.distance.surprise_R, -log_p_RV[rows, NEXT_R], rtol=1e-6)
    np.testing.assert_allclose(found.distance.kl_R, (np.exp(log_p_RV) * (log_p_RV - log_q_RV)).sum(axis=1), rtol=1e-4)
    np.testing.assert_array_equal(found.distance.agrees_R, log_p_RV.argmax(axis=1) == log_q_RV.argmax(axis=1))
    assert 0 < found.distance.agrees_R.sum() < 40


def test_a_small_divergence_is_not_lost_in_rounding() -> None:
    near_RV = LOGITS_RV + NOISE_RV * np.float32(1e-3)
    found = score_rows(near_RV, NEXT_R, LOGITS_RV).distance
    log_p_RV, log_q_RV = (log_softmax(x) for x in (LOGITS_RV, near_RV))
    expected_R = (np.exp(log_p_RV) * (log_p_RV - log_q_RV)).sum(axis=1)
    assert found is not None
    np.testing.assert_allclose(found.kl_R, expected_R, atol=3e-8)
    assert expected_R.max() < 1e-6


def test_a_model_is_at_no_distance_from_itself() -> None:
    found = score_rows(LOGITS_RV, NEXT_R, LOGITS_RV.copy()).distance
    assert found is not None
    assert found.kl_R.max() == 0
    assert found.agrees_R.all()


def test_wider_padding_is_cut_off() -> None:
    padded_RV = np.pad(LOGITS_RV, ((0, 0), (0, 20)), constant_values=-5)
    for pair in ((padded_RV, LOGITS_RV), (LOGITS_RV, padded_RV)):
        found = score_rows(pair[0], NEXT_R, pair[1]).distance
        assert found is not None
        assert found.kl_R.max() == 0


def test_a_row_far_from_the_reference_is_far_and_finite() -> None:
    far_RV = np.zeros((1, 3), np.float32)
    far_RV[0, 0] = 1e4
    found = score_rows(far_RV, np.array([1]), np.ascontiguousarray(far_RV[:, ::-1]))
    assert found.surprise_R[0] == 1e4
    assert found.distance is not None
    assert found.distance.kl_R[0] == pytest.approx(1e4)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(odd: float) -> None:
    bad_RV = LOGITS_RV.copy()
    bad_RV[3, 7] = odd
    with pytest.raises(SamovarError, match="no numbers"):
        score_rows(bad_RV, NEXT_R)
    with pytest.raises(SamovarError, match="no numbers"):
        score_rows(LOGITS_RV, NEXT_R, bad_RV)
