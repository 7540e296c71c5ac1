"""Requests that go on together: who is computed when, who waits, who gives way, and what is shared."""

import time
from dataclasses import replace

import numpy as np
import pytest

from samovar.engine.engine import MAX_IDLE, Limits
from samovar.engine.ngram_drafter import NgramDrafter
from samovar.engine.prefix_cache import Break
from samovar.engine.request import Thinking
from samovar.engine.thinking import ThinkingTokens
from samovar.errors import BadRequest, EngineFailed, NoTokenLeft, OutOfMemory, Overloaded
from tests.engine.fakes import VOCAB, TinyModel, generate, ids_of, request, run, tiny_engine

PROMPT = [5, 17, 3, 88, 42, 9, 60, 1, 33] * 5  # 45 tokens
LONG = PROMPT * 5
BLANK = (90, 91, 92, 91)
TOKENS = ThinkingTokens(
    open_id=90, close_id=92, tool_call_id=None, close_text=(91, 92, 91), stop_text=(80, 91, 92, 91), blank_text=BLANK,
    after_close=(91,), ends_sentence=lambda token_id: False, is_blank=lambda token_id: token_id == 91,
)  # fmt: skip


def steps(engine, *sequences):
    """Step until all have ended: for each step, the tokens computed, and the ids that each sequence got."""
    n_tokens = engine.model.n_tokens_per_call
    while not all(s.is_finished for s in sequences):
        n_calls = len(n_tokens)
        events = engine.step()
        yield sum(n_tokens[n_calls:]), {e.sequence_id: e for e in events}


def test_a_talking_stream_gets_a_token_in_every_step_while_a_long_prompt_is_computed():
    engine = tiny_engine(limits=Limits(max_step_tokens=64, max_mixed_tokens=24))
    stream = engine.submit(request(PROMPT[:5], max_tokens=60))
    engine.step()
    long = engine.submit(request(LONG, max_tokens=3))
    n_steps = 0
    for n_tokens, events in steps(engine, long):
        assert len(events[stream.id].token_ids) == 1
        assert n_tokens <= 24
        n_steps += 1
    assert n_steps == -(-len(LONG) // 23) + 2


def test_the_answer_of_the_long_prompt_is_the_one_it_gets_alone():
    engine = tiny_engine(limits=Limits(max_step_tokens=64, max_mixed_tokens=24))
    generate(engine, request(PROMPT[:5], max_tokens=60))
    _, long = generate(engine, request(PROMPT[:5], max_tokens=60), request(LONG))
    assert ids_of(long) == ids_of(generate(tiny_engine(), request(LONG))[0])


def test_a_low_priority_request_ends_under_an_endless_flow_of_urgent_ones():
    now = [0.0]
    engine = tiny_engine(n_pages=5, max_context=96, limits=Limits(max_running=1), clock=lambda: now[0])
    patient = engine.submit(request(PROMPT, priority=-1, max_tokens=20))
    n_urgent = 0
    while not patient.is_finished:
        if not n_urgent % 3:
            engine.submit(request(PROMPT[:9], priority=1, max_tokens=2, seed=n_urgent))
        n_urgent += 1
        now[0] += 1.0
        engine.step()
        assert now[0] < 400
    assert patient.finish_reason == "length"
    assert now[0] >= 40


def test_an_urgent_request_is_answered_before_those_that_came_earlier_and_they_get_the_same_tokens():
    engine = tiny_engine(limits=Limits(max_running=2))
    slow = [engine.submit(request(PROMPT[: 20 + n], max_tokens=30, temperature=1.0, seed=n)) for n in range(4)]
    for _ in range(3):
        engine.step()
    urgent = engine.submit(request(PROMPT, max_tokens=3, priority=1))
    ended = [i for _, events in steps(engine, urgent, *slow) for i, e in events.items() if e.ending]
    assert ended == [urgent.id, slow[0].id, slow[1].id, slow[2].id, slow[3].id]
    assert [ids_of(s) for s in slow] == [ids_of(generate(tiny_engine(), s.request)[0]) for s in slow]
    assert engine.scheduler.n_preempted == 1


def test_several_samples_compute_their_prompt_once_and_share_its_pages():
    model = TinyModel()
    engine = tiny_engine(model=model)
    asked = [request(LONG, temperature=5.0, seed=seed) for seed in range(4)]
    leader = engine.submit(asked[0])
    sequences = [leader, *(engine.submit(r, leader=leader) for r in asked[1:])]
    engine.step()
    assert model.n_tokens_per_call == [len(LONG)]
    engine.step()
    n_whole = len(LONG) // 32
    assert model.n_tokens_per_call[1] == 1 + 3 * (len(LONG) - 32 * n_whole)
    assert all(s.pages[:n_whole] == leader.pages[:n_whole] for s in sequences)
    assert {engine.pool.n_users(page) for page in leader.pages[:n_whole]} == {4}
    assert len({s.pages[n_whole] for s in sequences}) == 4
    run(engine, sequences)
    assert [ids_of(s) for s in sequences] == [ids_of(generate(tiny_engine(), r)[0]) for r in asked]
    assert len({tuple(ids_of(s)) for s in sequences}) == 4


@pytest.mark.parametrize("how", ["cancelled", "deadline", "fails"])
def test_those_that_wait_for_a_leader_go_on_when_it_ends_early(how):
    now = [0.0]
    engine = tiny_engine(max_step_tokens=20, clock=lambda: now[0])
    leader = engine.submit(request(LONG, deadline_s=5.0))
    follower = engine.submit(request(LONG), leader=leader)
    hurried = engine.submit(request(LONG, deadline_s=3.0), leader=leader)
    engine.step()
    assert not follower.pages
    now[0] = 4.0
    if how == "cancelled":
        engine.cancel(leader)
    elif how == "deadline":
        now[0] = 5.0
    else:
        leader.finish_reason, leader.error = "error", EngineFailed("it broke")
    events = run(engine, [leader, follower, hurried])
    assert [events[s.id][-1].ending.reason for s in (follower, hurried)] == ["length", "deadline"]
    assert leader.finish_reason in (how, "error")
    assert ids_of(follower) == ids_of(generate(tiny_engine(), request(LONG))[0])


def test_a_deadline_ends_what_waits_and_what_runs_with_the_tokens_that_it_has():
    now = [0.0]
    engine = tiny_engine(limits=Limits(max_running=1), clock=lambda: now[0])
    running, waiting = (engine.submit(request(PROMPT, deadline_s=s)) for s in (5.0, 3.0))
    events = {s.id: [] for s in (running, waiting)}
    for _ in range(10):
        for event in engine.step():
            events[event.sequence_id].append((now[0], event))
        now[0] += 1.0
    for sequence, at, n_tokens in ((running, 5.0, 5), (waiting, 3.0, 0)):
        assert [(t, e.ending.reason) for t, e in events[sequence.id] if e.ending] == [(at, "deadline")]
        assert sequence.n_generated == n_tokens
    assert engine.cache.n_available == engine.pool.n_pages


def test_idle_work_gives_way_and_is_taken_up_again():
    model = TinyModel()
    engine = tiny_engine(model=model, max_step_tokens=32)
    idle = engine.submit(request(LONG, task="prefill"), is_idle_work=True)
    for _ in range(3):
        engine.step()
    assert idle.n_computed == 96
    other = engine.submit(request(PROMPT[::-1], max_tokens=3))
    run(engine, [idle, other])
    assert (idle.finish_reason, other.finish_reason) == ("stop", "length")
    assert sum(model.n_tokens_per_call) == len(LONG) + 45 + 2  # nothing was computed twice
    assert generate(engine, request(LONG))[0].n_cached == len(LONG) - 1


def test_of_more_idle_work_than_there_ever_is_time_for_the_oldest_is_cancelled():
    engine = tiny_engine()
    busy = engine.submit(request(PROMPT))
    engine.step()
    idle = [engine.submit(request(PROMPT, task="prefill", seed=n), is_idle_work=True) for n in range(MAX_IDLE + 2)]
    assert [s.finish_reason for s in idle] == ["cancelled"] * 2 + [None] * MAX_IDLE
    run(engine, [busy, *idle])
    assert {s.finish_reason for s in idle[2:]} == {"stop"}


def test_a_prefill_gives_no_token_and_its_prompt_is_kept():
    engine = tiny_engine()
    (kept,) = generate(engine, request(PROMPT, task="prefill"))
    assert (ids_of(kept), kept.finish_reason) == ([], "stop")
    assert generate(engine, request(PROMPT))[0].n_cached == 44


def test_an_ending_says_what_was_cached_and_where_the_prompt_parted():
    engine = tiny_engine()
    generate(engine, request(PROMPT))
    sequence = engine.submit(request([*PROMPT[:40], 2, 3]))
    ending = run(engine, [sequence])[sequence.id][-1].ending
    assert (ending.n_cached, ending.parting) == (40, Break(40, PROMPT[40], 2))
    tenant = engine.submit(request(PROMPT, tenant="another"))
    ending = run(engine, [tenant])[tenant.id][-1].ending
    assert (ending.n_cached, ending.parting) == (0, None)


@pytest.mark.parametrize("max_tokens", range(1, 8))
def test_no_more_tokens_come_than_were_asked_for_when_some_are_put_there_by_force(max_tokens):
    engine = tiny_engine(thinking_tokens=TOKENS)
    thinking = Thinking(is_open=False, budget=0)
    sequence = engine.submit(request(PROMPT, max_tokens=max_tokens, thinking=thinking, logprobs=0))
    events = run(engine, [sequence])[sequence.id]
    assert (sequence.n_generated, sequence.finish_reason) == (max_tokens, "length")
    assert [i for e in events for i in e.token_ids] == ids_of(sequence)
    assert ids_of(sequence)[: len(BLANK)] == list(BLANK[:max_tokens])
    chosen = [x is not None for e in events for x in e.logprobs]
    assert chosen == [i >= len(BLANK) for i in range(max_tokens)]


class Oracle(NgramDrafter):
    """Knows the text beforehand."""

    priors = (1.0,)

    def __init__(self, text):
        super().__init__()
        self.text = text

    def look(self, token_ids):
        return 0

    def propose(self, token_ids, n_most):
        return tuple(self.text[len(token_ids) : len(token_ids) + n_most])


@pytest.mark.parametrize("budget", [0, 5, 9, None])
@pytest.mark.parametrize("is_open", [False, True])
def test_what_is_put_there_by_force_comes_once_and_at_the_same_place_preempted_and_speculated_too(budget, is_open):
    thinking = Thinking(is_open=is_open, budget=budget)
    asked = request(PROMPT, max_tokens=40, thinking=thinking, logit_bias=((90, 0.5), (92, -50.0)), temperature=1.0)
    plain = tiny_engine(thinking_tokens=TOKENS)
    first = plain.submit(asked)
    wanted = run(plain, [first])[first.id][-1].ending
    assert (TOKENS.close_id in ids_of(first)) == (is_open or budget == 0)
    engine = tiny_engine(thinking_tokens=TOKENS, start_drafters=(lambda r: Oracle(first.token_ids),))
    generate(engine, request(PROMPT[:20], task="prefill"))
    sequence = engine.submit(asked)
    events = []
    while not sequence.is_finished:
        events += engine.step()
        if sequence.n_generated in range(1, 20) and sequence in engine.scheduler.running:
            engine.scheduler.preempt(sequence)
    ending = events[-1].ending
    assert ids_of(sequence) == ids_of(first)
    assert (ending.n_thinking, ending.thinking_stopped) == (wanted.n_thinking, wanted.thinking_stopped)
    assert (ending.n_cached, ending.parting) == (20, None)
    assert ending.n_preempted
    assert ending.n_accepted


def test_drafts_take_no_page_that_is_worth_keeping():
    right = [*PROMPT[:20], *ids_of(generate(tiny_engine(), request(PROMPT[:20]))[0])]
    engine = tiny_engine(n_pages=3, max_context=64, start_drafters=(lambda r: Oracle([0] * 100),))
    kept = [40 + i % 50 for i in range(64)]
    generate(engine, request(kept, task="prefill"))
    asked = request(PROMPT[:20], max_tokens=40, stop_ids=(right[27],))
    (sequence,) = generate(engine, asked)
    assert len(sequence.token_ids) <= 28
    assert sequence.speculation.n_drafted
    assert generate(engine, request(kept[:63], max_tokens=1))[0].n_cached == 62


class Holes(TinyModel):
    """Gives no numbers after the tokens of a step that are `bad`."""

    bad = 7

    def __call__(self, ids_T, positions_T, attend, rows_S, adapted=()):
        logits_SV = super().__call__(ids_T, positions_T, attend, rows_S)
        logits_SV[ids_T[rows_S] == self.bad] = np.nan
        return logits_SV


def test_rows_that_leave_no_token_end_their_requests_and_no_others():
    engine = tiny_engine(model=Holes())
    prompts = [PROMPT[:4], [1, 7], PROMPT[:9], [2, 7], [3, 7], PROMPT[:12]]
    sequences = [engine.submit(request(p, temperature=1.0, seed=9)) for p in prompts]
    events = run(engine, sequences)
    for sequence, prompt in zip(sequences, prompts, strict=True):
        ending = events[sequence.id][-1].ending
        if prompt[-1] == Holes.bad:
            assert isinstance(ending.error, NoTokenLeft)
            assert not ids_of(sequence)
        else:
            (alone,) = generate(tiny_engine(), sequence.request)
            n = ids_of(alone).index(Holes.bad) + 1 if Holes.bad in ids_of(alone) else 12
            assert ids_of(sequence) == ids_of(alone)[:n]
    assert sum(events[s.id][-1].ending.reason == "length" for s in sequences) > 0


class Forbids:
    is_accepting = False

    """A grammar that allows everything, and breaks at the n-th token."""

    def __init__(self, n):
        self.n = n

    def mask(self, allowed_W):
        pass

    def accept(self, token_id):
        self.n -= 1
        if not self.n:
            raise BadRequest("the grammar broke", param="grammar")


@pytest.mark.parametrize("n_prompt", [19, 20, 21, 31, 32])
def test_a_grammar_that_breaks_at_a_token_that_was_guessed_ends_its_request_alone(n_prompt):
    right = [*PROMPT[:n_prompt], *ids_of(generate(tiny_engine(), request(PROMPT[:n_prompt]))[0])]

    for n in (1, 2, 5, 11, 12):
        engine = tiny_engine(start_drafters=(lambda r: Oracle(right),))
        sequence = engine.submit(request(PROMPT[:n_prompt], grammar=Forbids(n)))
        ending = run(engine, [sequence])[sequence.id][-1].ending
        assert str(ending.error) == "the grammar broke"
        assert ids_of(sequence) == right[n_prompt : n_prompt + n - 1]
        assert engine.cache.n_available == engine.pool.n_pages
        assert ids_of(generate(engine, request(right))[0]) == ids_of(generate(tiny_engine(), request(right))[0])


def test_drafts_take_no_page_that_another_sequence_needs():
    engine = tiny_engine(n_pages=4, max_context=64, start_drafters=(lambda r: NgramDrafter(),))
    asked = [request([3, 4] * 15, max_tokens=30, seed=s, temperature=0.3, repetition_penalty=1.0) for s in range(2)]
    both = generate(engine, *asked)
    assert [ids_of(s) for s in both] == [ids_of(generate(tiny_engine(), r)[0]) for r in asked]
    assert engine.scheduler.n_preempted == 0
    assert sum(s.speculation.n_drafted for s in both) > 0


def test_a_full_queue_refuses_and_tells_the_wait_that_is_to_be_expected():
    engine = tiny_engine(limits=Limits(max_running=1, max_waiting=2))
    generate(engine, request(LONG), request(PROMPT))
    for _ in range(2):
        engine.submit(request(PROMPT))
    short = engine.expected_wait_s()
    engine.submit(request(LONG), is_idle_work=True)  # takes no place in the queue
    with pytest.raises(Overloaded, match="2 requests are waiting, as many as the queue holds") as caught:
        engine.submit(request(PROMPT))
    assert engine.expected_wait_s() > short > 0
    assert caught.value.wait_s == max(1.0, engine.expected_wait_s())


def test_logits_are_refused_by_name_when_running_requests_leave_no_room():
    engine = tiny_engine(n_pages=4, max_context=128)
    sequence = engine.submit(request(LONG[:90], max_tokens=30))
    engine.step()
    with pytest.raises(OutOfMemory, match="wait until other requests have ended"):
        engine.logits(tuple(LONG[:90]))
    run(engine, [sequence])
    assert engine.logits(tuple(LONG[:90])).shape == (90, VOCAB)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"prompt_ids": (1, True)}, "prompt"), ({"prompt_ids": (1, 2.0)}, "prompt"), ({"prompt_ids": (1, "2")}, "prompt"),
        ({"prompt_ids": (1, -1)}, "prompt"), ({"prompt_ids": (VOCAB, 1)}, "prompt"), ({"logit_ids": (VOCAB,)}, "logit_ids"),
    ],
)  # fmt: skip
def test_ids_that_no_vocabulary_holds_are_refused_by_name(change, name):
    with pytest.raises(BadRequest) as caught:
        tiny_engine().submit(replace(request(PROMPT), **change))
    assert caught.value.param == name


@pytest.mark.parametrize("option", ["stop_ids", "logit_bias"])
def test_settings_that_name_an_id_beyond_the_vocabulary_are_refused(option):
    value = (VOCAB,) if option == "stop_ids" else ((VOCAB, 1.0),)
    with pytest.raises(BadRequest, match=f"{option}: token id {VOCAB} is not in the vocabulary"):
        tiny_engine().submit(request(PROMPT, **{option: value}))


def test_numpy_ids_are_taken_and_a_long_prompt_is_checked_in_milliseconds():
    engine = tiny_engine()
    engine.check(request(np.array(PROMPT)))
    engine.max_context = 1 << 20
    asked = request(PROMPT * 1000)
    assert min(timed(engine.check, asked) for _ in range(5)) < 0.02


def timed(function, *args):
    started = time.perf_counter()
    function(*args)
    return time.perf_counter() - started
