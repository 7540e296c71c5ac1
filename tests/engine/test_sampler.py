"""Sampling against transformers' processors, and what the engine asks of it: penalties, biases, grammars, drafts."""

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

from samovar.engine.request import Request, SamplingParams
from samovar.engine.sampler import Row, sample_rows
from samovar.engine.sequence import Sequence
from samovar.errors import BadRequest, NoTokenLeft
from samovar.kernels.native import available_isas, native_ops
from samovar.kernels.reference import ReferenceOps
from samovar.kernels.reference_sample import adjusted, kept
from tests.engine.fakes import VOCAB, generate, request, tiny_engine

LOGITS_V = np.random.default_rng(3).normal(scale=3, size=5000).astype(np.float32)
OPS = native_ops(None, 1) if available_isas() else ReferenceOps()


def sequence(token_ids=(1,), n_prompt=None, grammar=None, **values):
    sampling = SamplingParams(**({"temperature": 1.0, "top_p": 1.0} | values))
    prompt_ids = tuple(token_ids[:n_prompt])
    return Sequence(request=Request(prompt_ids=prompt_ids, sampling=sampling, grammar=grammar), token_ids=list(token_ids))


class BatchSeen(ReferenceOps):
    """Keeps the batch that it was asked to sample from."""

    def sample(self, logits_SV, batch):
        self.batch = batch
        return super().sample(logits_SV, batch)


def batch_for(*rows):
    ops = BatchSeen()
    sample_rows(ops, np.zeros((len(rows), len(LOGITS_V)), np.float32), list(rows))
    return ops.batch


def scores_of(row):
    return adjusted(LOGITS_V, batch_for(row), 0)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 20, 400])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3])
@pytest.mark.parametrize("min_p", [0.0, 0.05])
def test_probabilities_equal_those_of_transformers(temperature, top_k, top_p, min_p):
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    scores = torch.tensor(LOGITS_V)[None]
    for warper in warpers:
        scores = warper(None, scores)
    batch = batch_for(Row(sequence(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)))
    ids, weights = kept(LOGITS_V, batch, 0)
    ours = np.zeros(len(LOGITS_V))
    ours[ids] = weights / weights.sum()
    np.testing.assert_allclose(ours, torch.softmax(scores.double(), -1)[0].numpy(), atol=1e-6)


def test_repetition_penalty_equals_that_of_transformers():
    seen = [4, 9, 9, 100, 4999]
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([seen]), torch.tensor(LOGITS_V)[None])[0].numpy()
    ours = scores_of(Row(sequence(seen, 2, repetition_penalty=1.3)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_presence_and_frequency_penalties_count_generated_tokens_only():
    ours = scores_of(Row(sequence([7, 7, 8, 9, 9], 2, presence_penalty=0.5, frequency_penalty=0.25)))
    expected = LOGITS_V.copy()
    expected[8] -= 0.75
    expected[9] -= 1.0
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize("draft_ids", [(5,), (6, 5, 5), (1, 9)])
def test_draft_tokens_count_as_if_they_had_been_generated_and_leave_no_trace(draft_ids):
    penalties = {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.25}
    drafted = sequence([1, 5, 5, 6], 2, **penalties)
    before = scores_of(Row(drafted))
    with_drafts = batch_for(Row(drafted, draft_ids))
    held = batch_for(Row(sequence([1, 5, 5, 6, *draft_ids], 2, **penalties)))
    assert np.array_equal(adjusted(LOGITS_V, with_drafts, 0), adjusted(LOGITS_V, held, 0))
    assert with_drafts.positions == held.positions == 4 + len(draft_ids)
    assert np.array_equal(scores_of(Row(drafted)), before)


def test_counts_that_follow_a_growing_sequence_equal_counts_taken_at_once():
    tokens = np.random.default_rng(0).integers(0, 300, 1000).tolist()
    growing = sequence(tokens[:10], frequency_penalty=0.1)
    for token in tokens[10:]:
        growing.token_ids.append(token)
        batch = batch_for(Row(growing))
    at_once = batch_for(Row(sequence(tokens, 10, frequency_penalty=0.1)))
    assert np.array_equal(batch.seen_ids, at_once.seen_ids)
    assert np.array_equal(batch.seen_counts, at_once.seen_counts)
    distinct = np.unique(tokens)
    assert sorted(batch.seen_ids.tolist()) == distinct.tolist()
    assert sum(batch.seen_counts) == 990


def test_rows_of_several_sequences_keep_their_lists_apart():
    plain, penalised = sequence(seed=5), sequence([3, 4, 4], 1, presence_penalty=1.0, logit_bias=((7, 2.5),))
    batch = batch_for(Row(plain), Row(penalised), Row(penalised, (8,)))
    assert batch.seen_starts.tolist() == [0, 0, 2, 5]
    assert batch.seen_ids.tolist() == [3, 4, 3, 4, 8]
    assert batch.seen_counts.tolist() == [0, 2, 0, 2, 1]
    assert (batch.bias_starts.tolist(), batch.bias_ids.tolist()) == ([0, 0, 1, 2], [7, 7])
    assert batch.positions.tolist() == [1, 3, 4]
    assert batch.mask_SW is None


def test_sampled_tokens_follow_the_probabilities():
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    rows = [Row(sequence([0] * n, 1, seed=11)) for n in range(1, 4001)]
    chosen = sample_rows(OPS, np.tile(logits, (4000, 1)), rows)
    np.testing.assert_allclose(np.bincount(chosen, minlength=4) / 4000, [0.5, 0.3, 0.15, 0.05], atol=0.03)


def test_no_rows_give_no_tokens():
    assert sample_rows(OPS, np.empty((0, 9), np.float32), []) == []


def test_a_large_bias_decides_and_a_small_one_forbids():
    engine = tiny_engine()
    (plain,) = generate(engine, request([1, 2, 3]))
    wanted = next(i for i in range(VOCAB) if i not in plain.token_ids)
    (forced,) = generate(engine, request([1, 2, 3], logit_bias=((wanted, 100.0),)))
    assert set(forced.token_ids[3:]) == {wanted}
    (spared,) = generate(engine, request([1, 2, 3], logit_bias=((plain.token_ids[3], -100.0),)))
    assert plain.token_ids[3] not in spared.token_ids[3:]


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (((1, 101.0),), "from -100 to 100"), (((-1, 1.0),), "whole number from 0"), (((2, 1.0), (2, 3.0)), "twice"),
        (((True, 1.0),), "whole number"), (((1, float("nan")),), "from -100 to 100"),
    ],
)  # fmt: skip
def test_an_unsound_bias_is_refused(bias, message):
    with pytest.raises(BadRequest, match=f"logit_bias.*{message}"):
        SamplingParams(logit_bias=bias)


def test_a_bias_for_a_token_outside_the_vocabulary_is_refused():
    with pytest.raises(BadRequest, match=f"logit_bias: token id {VOCAB} is not in the vocabulary; expected 0 to {VOCAB - 1}"):
        tiny_engine().submit(request([1], logit_bias=((VOCAB, 1.0),)))


class CountUp:
    """Allows the token after the one accepted last, and nothing after `last`."""

    def __init__(self, first, last):
        self.next, self.last = first, last

    def mask(self, allowed_W):
        allowed_W[:] = 0
        if self.next <= self.last:
            allowed_W[self.next // 32] = 1 << self.next % 32

    def accept(self, token_id):
        assert token_id == self.next
        self.next += 1


def test_an_answer_follows_its_grammar_and_its_neighbour_does_not_notice():
    free, (alone,) = request([4, 5], temperature=1.0), generate(tiny_engine(), request([4, 5], temperature=1.0))
    guided = Request(prompt_ids=(1, 2), sampling=SamplingParams(temperature=0.8, seed=3, max_tokens=8), grammar=CountUp(30, 90))
    first, second = generate(tiny_engine(), guided, free)
    assert first.token_ids[2:] == list(range(30, 38))
    assert second.token_ids == alone.token_ids


def test_a_grammar_that_allows_nothing_is_an_error():
    guided = Request(prompt_ids=(1, 2), sampling=SamplingParams(max_tokens=8), grammar=CountUp(30, 32))
    with pytest.raises(NoTokenLeft, match="grammar"):
        generate(tiny_engine(), guided)
