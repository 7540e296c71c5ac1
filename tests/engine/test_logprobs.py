"""Log-probabilities against torch and a plain sum, and those of prompts against the logits of the whole text."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine.engine import Limits
from samovar.engine.logprobs import logprob
from samovar.errors import BadRequest
from tests.engine.fakes import VOCAB, request, run, tiny_engine

TEXT = [5, 17, 3, 88, 42, 9, 60, 1, 33] * 9


def logits(n=1000, seed=0, scale=5.0):
    return (np.random.default_rng(seed).normal(size=n) * scale).astype(np.float32)


def plain(values, n_top):
    """By the definition, in exact sums."""
    highest = max(values)
    log_sum = highest + math.log(math.fsum(math.exp(v - highest) for v in values))
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return [v - log_sum for v in values], order[:n_top]


@pytest.mark.parametrize("n_top", range(21))
def test_the_figures_are_those_of_torch_and_the_likeliest_come_first(n_top):
    torch = pytest.importorskip("torch")
    row = logits()
    wanted = torch.log_softmax(torch.from_numpy(row).double(), 0)
    found = logprob(row, 17, n_top)
    assert found.value == pytest.approx(float(wanted[17]), abs=1e-7)
    values, ids = torch.topk(wanted, n_top)
    assert [i for i, _ in found.top] == ids.tolist()
    assert [v for _, v in found.top] == pytest.approx(values.tolist(), abs=1e-7)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    values=st.lists(st.integers(-3, 3) | st.floats(-100, 100, width=32) | st.just(-math.inf), min_size=1, max_size=40),
    n_top=st.integers(0, 20),
    at=st.integers(0, 39),
)
def test_of_equals_the_lower_ids_come_first_and_no_more_than_there_are(values, n_top, at):
    values = [*values, 1.0]
    at %= len(values)
    wanted, order = plain(values, n_top)
    found = logprob(np.array(values, np.float32), at, n_top)
    assert found.value == pytest.approx(wanted[at], abs=1e-7)
    assert [i for i, _ in found.top] == order
    assert [v for _, v in found.top] == pytest.approx([wanted[i] for i in order], abs=1e-7)


def test_large_and_distant_logits_neither_overflow_nor_vanish():
    row = np.array([3e38, 0, -3e38], np.float32)
    assert logprob(row, 0, 1).value == 0.0
    assert logprob(row, 2, 0).value == pytest.approx(-6e38, rel=1e-6)


def test_a_row_has_the_same_bits_wherever_it_lies():
    rows = np.stack([logits(4097, seed) for seed in range(5)])
    strided = np.asfortranarray(rows)
    for i in range(5):
        assert logprob(rows[i], 3, 20) == logprob(rows[i].copy(), 3, 20) == logprob(strided[i], 3, 20)


def test_the_token_drawn_and_what_stands_beside_it_are_the_models_own_figures_whatever_the_settings():
    asked = request(TEXT[:20], temperature=2.0, seed=4, logprobs=3, repetition_penalty=1.5, top_k=5, logit_bias=((7, 50.0),))
    engine = tiny_engine()
    sequence = engine.submit(asked)
    events = run(engine, [sequence])[sequence.id]
    found = [x for event in events for x in event.logprobs]
    rows = tiny_engine().logits(tuple(sequence.token_ids))[19:]
    assert found == [logprob(row, i, 3) for row, i in zip(rows, sequence.token_ids[20:], strict=False)]
    assert len(found) == 12
    assert all(len(event.logprobs) == len(event.token_ids) for event in events)


def score(engine, asked, preempts=False):
    sequence = engine.submit(asked)
    while not sequence.is_finished:
        if preempts and len(sequence.prompt_logprobs) in range(5, 60) and sequence.n_preempted < 3:
            engine.scheduler.preempt(sequence)
            engine.cache.clear()
        last = engine.step()
    assert sequence.n_preempted - 1 == 3 * preempts
    return last[-1].ending


@pytest.mark.parametrize("how", ["whole", "chunks of 1", "chunks of 7", "chunks of 64", "cached", "preempted", "no answer"])
@pytest.mark.parametrize(
    ("first", "n_prompt"), [(1, 70), (1, 64), (33, 70), (69, 70), (70, 70), (200, 70), (1, 1), (1, 2), (2, 65)]
)
def test_the_scores_of_a_prompt_are_those_of_the_logits_of_the_whole_text(how, first, n_prompt):
    ids = tuple(TEXT[:n_prompt])
    rows = tiny_engine().logits(ids)
    wanted = [logprob(rows[at - 1], ids[at], 2) for at in range(first, n_prompt)]
    n_chunk = int(how.split()[-1]) if how.startswith("chunks") else 7 if how == "preempted" else 512
    engine = tiny_engine(limits=Limits(max_step_tokens=n_chunk))
    task = "prefill" if how == "no answer" else "generate"
    asked = request(ids, task=task, prompt_logprobs=2, prompt_logprobs_from=first, max_tokens=2)
    if how == "cached":
        run(engine, [engine.submit(request(TEXT[:n_prompt]))])
    ending = score(engine, asked, preempts=how == "preempted" and len(wanted) > 20)
    assert list(ending.prompt_logprobs) == wanted
    if how == "cached":
        assert ending.n_cached == min(first, n_prompt) - 1


def test_the_chunks_of_a_prompt_whose_logits_are_wanted_are_small():
    engine = tiny_engine()
    engine.submit(request(TEXT * 2, prompt_logprobs=0))
    engine.step()
    assert engine.model.n_tokens_per_call == [64]


@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
@pytest.mark.parametrize("n", [-1, 21, 1.5, True])
def test_more_than_twenty_of_the_likeliest_are_refused(name, n):
    with pytest.raises(BadRequest, match=f"^{name} is .*whole number from 0 to 20"):
        request(TEXT, **{name: n})


def test_the_logits_of_given_tokens_after_the_prompt_are_told():
    engine = tiny_engine()
    sequence = engine.submit(request(TEXT[:40], logit_ids=(3, VOCAB - 1, 3)))
    ending = run(engine, [sequence])[sequence.id][-1].ending
    row = tiny_engine().logits(tuple(TEXT[:40]))[-1]
    assert ending.logits == (float(row[3]), float(row[-1]), float(row[3]))
