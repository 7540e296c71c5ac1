import numpy as np
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from samovar.engine.request import SamplingParams
from samovar.engine.sampler import candidates, penalise, sample, uniform

LOGITS_V = np.random.default_rng(3).normal(scale=3, size=5000).astype(np.float32)


def params(**values):
    return SamplingParams(**({"temperature": 1.0, "top_p": 1.0} | values))


def by_transformers(*warpers):
    scores = torch.tensor(LOGITS_V)[None]
    for warper in warpers:
        scores = warper(None, scores)
    return torch.softmax(scores.double(), -1)[0].numpy()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 20, 400])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3])
@pytest.mark.parametrize("min_p", [0.0, 0.05])
def test_probabilities_equal_those_of_transformers(temperature, top_k, top_p, min_p):
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    ids, weights = candidates(LOGITS_V, params(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p))
    ours = np.zeros(len(LOGITS_V))
    ours[ids] = weights / weights.sum()
    np.testing.assert_allclose(ours, by_transformers(*warpers), atol=1e-6)


def test_repetition_penalty_equals_that_of_transformers():
    seen = [4, 9, 9, 100, 4999]
    ours = penalise(LOGITS_V, params(repetition_penalty=1.3), seen, n_prompt=2)
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([seen]), torch.tensor(LOGITS_V)[None])[0].numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_presence_and_frequency_penalties_count_generated_tokens_only():
    ours = penalise(LOGITS_V, params(presence_penalty=0.5, frequency_penalty=0.25), [7, 7, 8, 9, 9], n_prompt=2)
    expected = LOGITS_V.copy()
    expected[8] -= 0.75
    expected[9] -= 1.0
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_temperature_zero_takes_the_largest_and_the_lower_id_among_equals():
    logits = np.zeros(50, np.float32)
    logits[[9, 30]] = 2
    assert sample(logits, params(temperature=0.0), [1], 1) == 9


def test_top_k_among_equals_keeps_exactly_k_and_prefers_lower_ids():
    ids, _ = candidates(np.zeros(1000, np.float32), params(top_k=3))
    assert ids.tolist() == [0, 1, 2]


def test_a_draw_depends_on_seed_and_position_alone_and_is_even():
    assert uniform(1, 2) == uniform(1, 2)
    draws = np.array([uniform(seed, position) for seed in range(20) for position in range(100)])
    assert len(set(draws)) == len(draws)
    assert np.histogram(draws, 10, (0, 1))[0].min() > 150


def test_sampled_tokens_follow_the_probabilities():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    chosen = [sample(logits, params(seed=11), [0] * n, 1) for n in range(1, 4001)]
    np.testing.assert_allclose(np.bincount(chosen, minlength=4) / 4000, [0.5, 0.3, 0.15, 0.05], atol=0.03)
