"""Intervals: they hold the truth as often as they say, and neighbours that are alike make them wider."""

import numpy as np
import pytest

from samovar.evals.interval import BLOCK, block_starts, estimate


def test_blocks_do_not_reach_over_windows() -> None:
    assert block_starts([130, 64, 10]).tolist() == [0, 64, 128, 130, 194]


def test_the_value_is_the_mean_over_positions_however_long_the_blocks_are() -> None:
    values_P = np.random.default_rng(1).gamma(0.5, 1, 1000)
    starts_N = block_starts([BLOCK + 1, 500, 1000 - 501 - BLOCK])
    found = estimate(values_P, starts_N)
    assert found.value == pytest.approx(values_P.mean())
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert estimate(values_P, starts_N, np.exp).value == pytest.approx(np.exp(values_P.mean()))


@pytest.mark.parametrize("carry", [0.0, 0.9])
def test_an_interval_holds_the_truth_in_about_95_of_100_texts(carry: float) -> None:
    # an autoregressive series: neighbours are alike, as the surprises of tokens are
    rng, n, starts_N, n_held = np.random.default_rng(2), 4000, block_starts([400] * 10), 0
    for _ in range(200):
        noise = rng.normal(size=n)
        values_P = np.empty(n)
        values_P[0] = noise[0]
        for i in range(1, n):
            values_P[i] = carry * values_P[i - 1] + noise[i]
        found = estimate(values_P + 3, starts_N)
        assert found.low is not None
        assert found.high is not None
        n_held += found.low <= 3 <= found.high
    assert 175 <= n_held <= 199


def test_a_few_blocks_have_no_interval() -> None:
    found = estimate(np.arange(100.0), block_starts([100]))
    assert (found.value, found.low, found.high) == (49.5, None, None)


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = estimate(np.full(1000, 2.5), block_starts([1000]))
    assert (found.value, found.low, found.high) == (2.5, 2.5, 2.5)
