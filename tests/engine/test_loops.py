"""Cycles are found in time, whatever they are made of, and nothing else is."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine.loops import IN_ANSWER, IN_THOUGHTS, LoopDetector

BOTH = pytest.mark.parametrize("limits", [IN_THOUGHTS, IN_ANSWER])


def first_loop(ids, limits):
    """After how many tokens a loop is seen."""
    detector = LoopDetector()
    for n, token_id in enumerate(ids, 1):
        detector.push(token_id)
        if detector.is_loop(limits):
            return n
    return None


def drawn(seed, n, n_kinds):
    rng = random.Random(seed)
    return [rng.randrange(n_kinds) for _ in range(n)]


def n_needed(period, limits):
    return max(limits.n_tokens, limits.n_rounds * period)


def is_cycle(ids, limits):
    """The definition, the slow way: the text ends in a cycle that is long enough."""
    return any(
        n_needed(period, limits) <= len(ids)
        and all(ids[-i] == ids[-i - period] for i in range(1, n_needed(period, limits) - period + 1))
        for period in range(1, len(ids) // limits.n_rounds + 1)
    )


@BOTH
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.sampled_from([1, 2, 3, 20, 150_000]), st.integers(0, 1 << 30))
def test_a_cycle_is_found_as_soon_as_it_is_long_enough(limits, period, n_kinds, seed):
    cycle = drawn(seed, period, n_kinds)
    found = first_loop(cycle * (2400 // period + 9), limits)
    assert found is not None
    assert found <= n_needed(period, limits)
    assert is_cycle((cycle * (2400 // period + 9))[:found], limits)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.sampled_from([1, 2, 5, 1000]), st.integers(0, 1 << 30), st.integers(0, 400))
def test_what_came_before_a_cycle_does_not_hide_it(period, n_kinds, seed, n_before):
    cycle = drawn(seed, period, n_kinds)
    before = drawn(seed + 1, n_before, n_kinds) if n_kinds > 1 else [9] * min(n_before, 150) + [8]
    text = before + cycle * (2400 // period + 9)
    found = first_loop(text, IN_THOUGHTS)
    assert found is not None
    assert found <= len(before) + 2 * n_needed(period, IN_THOUGHTS)
    assert is_cycle(text[:found], IN_THOUGHTS)


def test_a_cycle_that_was_broken_off_and_begins_again_is_found():
    cycle = drawn(3, 40, 50)
    text = cycle * 3 + [77] + cycle * 3 + [78] + cycle * 20
    assert 242 + 160 <= first_loop(text, IN_THOUGHTS) <= 242 + 2 * 192


def test_a_long_block_of_lines_that_repeats_is_found():
    block = drawn(1, 1500, 400)
    assert first_loop(drawn(2, 700, 400) + block * 9, IN_THOUGHTS) <= 700 + 4 * 1500


@BOTH
@settings(max_examples=30, deadline=None)
@given(st.integers(2, 200_000), st.integers(0, 1 << 30))
def test_a_text_without_cycles_is_none(limits, n_kinds, seed):
    assert first_loop(drawn(seed, 2000, n_kinds), limits) is None


@BOTH
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 400)), min_size=1, max_size=12))
def test_a_loop_is_reported_only_where_there_is_one(limits, runs):
    text = [token for token, n in runs for _ in range(n)]
    found = first_loop(text, limits)
    assert found is None or is_cycle(text[:found], limits)


@BOTH
def test_a_table_of_varying_numbers_is_no_loop(limits):
    digits = [[int(d) for d in f"{n:03}"] for n in range(400)]
    rows = [token for row in digits for token in (100, 101, 102, *row, 103, 104, row[2], 105, 106)]
    assert first_loop(rows, limits) is None


@BOTH
def test_few_rounds_and_few_tokens_are_no_loop(limits):
    long, short = drawn(1, 300, 1000), drawn(2, 3, 1000)
    assert first_loop(long * (limits.n_rounds - 1), limits) is None
    assert first_loop((short * limits.n_tokens)[: limits.n_tokens - 1], limits) is None


def test_an_answer_may_repeat_what_thoughts_may_not():
    zeros = [5] * 700
    assert first_loop(zeros, IN_THOUGHTS) == 192
    assert first_loop(zeros, IN_ANSWER) is None


def test_the_cost_of_a_token_does_not_grow():
    def seconds(ids):
        detector = LoopDetector()
        started = time.thread_time()
        for token_id in ids:
            detector.push(token_id)
        return time.thread_time() - started

    for make in (lambda n: drawn(1, n, 150_000), lambda n: drawn(1, n, 2), lambda n: [1] * (n // 2) + [2] * (n // 2)):
        short = min(seconds(make(4000)) for _ in range(3))
        assert min(seconds(make(32_000)) for _ in range(2)) < 8 * 4 * short


def test_memory_beside_the_tokens_is_bounded():
    detector = LoopDetector()
    for token_id in drawn(1, 30_000, 150_000):
        detector.push(token_id)
    assert sum(len(w.recent) + len(w.older) for w in detector._windows) <= 3 * 2 * 4096
