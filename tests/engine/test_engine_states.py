"""Whatever comes in whatever order: pages are counted right after every step, and each request gets its own answer once."""

from dataclasses import replace
from functools import lru_cache

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from samovar.engine.engine import Limits
from samovar.engine.ngram_drafter import NgramDrafter
from samovar.engine.page_pool import n_pages_for
from samovar.engine.scheduler import IDLE_RANK
from samovar.errors import EngineFailed, Overloaded
from tests.engine.fakes import TinyModel, request, run, tiny_engine
from tests.engine.page_checks import check_pages, check_writes

TEXT = [5, 17, 3, 88, 42, 9, 60, 1, 33] * 9
MENU = (
    request(TEXT[:5], max_tokens=9, logprobs=2),
    request(TEXT[:33], max_tokens=40, temperature=0.8, seed=1),
    request(TEXT[:64], max_tokens=6, temperature=1.5, seed=2, logprobs=0),
    request(TEXT[:70], max_tokens=None, repetition_penalty=1.3),
    request([*TEXT[:40], 7, 7], max_tokens=30, temperature=1.0, seed=3, tenant="other"),
    request([*TEXT[:40], 8, 8, *TEXT[:20]], max_tokens=3, prompt_logprobs=2),
    request(TEXT[:66], max_tokens=5, prompt_logprobs=0, prompt_logprobs_from=35, logprobs=1),
    request(TEXT[:50], task="prefill"),
)
JOBS = st.tuples(
    st.integers(0, len(MENU) - 1),
    st.integers(-1, 1),
    st.sampled_from([None, None, None, None, 6.0, 60.0]),
    st.sampled_from([False, False, False, True]),
    st.booleans(),
)
LIMITS = Limits(max_step_tokens=40, max_mixed_tokens=12, max_running=4, max_waiting=6)
N_PAGES, MAX_CONTEXT = 6, 110


class FailingModel(TinyModel):
    fails = False

    def __call__(self, ids_T, positions_T, attend, rows_S, adapted=()):
        assert len(set(attend.batch.slots_T.tolist())) == len(ids_T)  # no two write to the same place
        if self.fails:
            self.fails = False
            raise ZeroDivisionError("a bad step")
        return super().__call__(ids_T, positions_T, attend, rows_S)


def told(events):
    """Tokens, their log-probabilities, and those of the prompt."""
    ending = events[-1].ending
    return (
        [i for event in events for i in event.token_ids],
        [x for event in events for x in event.logprobs],
        list(ending.prompt_logprobs) if ending else [],
    )


@lru_cache
def alone(which):
    engine = tiny_engine(max_context=MAX_CONTEXT)
    sequence = engine.submit(MENU[which])
    return told(run(engine, [sequence])[sequence.id])


class Requests(RuleBasedStateMachine):
    """An engine with few pages. A step takes a second of its clock."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.model = FailingModel()
        self.engine = tiny_engine(
            model=self.model,
            n_pages=N_PAGES,
            max_context=MAX_CONTEXT,
            limits=LIMITS,
            start_drafters=(lambda r: NgramDrafter(),),
            clock=lambda: self.now,
        )
        plan = self.engine.scheduler.plan
        self.engine.scheduler.plan = lambda: self.checked(plan())
        self.sequences, self.which, self.events, self.cancelled = {}, {}, {}, set()

    def checked(self, plan):
        assert sum(count for _, count in plan) <= LIMITS.max_step_tokens
        check_writes(plan, self.engine.cache)
        self.check_pages()
        return plan

    def check_pages(self):
        check_pages(self.engine.cache, [s.pages for s in self.sequences.values()])
        assert all(not s.pages for s in self.engine.scheduler.waiting)
        assert len(self.engine.scheduler.running) <= LIMITS.max_running

    @property
    def open(self):
        return [s for i, s in self.sequences.items() if not (self.events[i] and self.events[i][-1].ending)]

    @rule(asked=st.lists(JOBS, min_size=1, max_size=4))
    def submit_some(self, asked):
        for job in asked:
            self.submit(*job)

    def submit(self, which, priority, deadline_s, is_idle_work, follows):
        asked = replace(MENU[which], priority=priority, deadline_s=deadline_s)
        leaders = [s for s in self.sequences.values() if follows and s.request.prompt_ids == asked.prompt_ids]
        n_waiting = sum(s.rank != IDLE_RANK for s in self.engine.scheduler.waiting)
        leader = leaders[-1] if leaders else None
        if n_waiting >= LIMITS.max_waiting and not is_idle_work:
            with pytest.raises(Overloaded):
                self.engine.submit(asked, leader=leader)
            return
        sequence = self.engine.submit(asked, leader=leader, is_idle_work=is_idle_work)
        self.sequences[sequence.id], self.which[sequence.id], self.events[sequence.id] = sequence, which, []

    @rule(n=st.integers(1, 15))
    def step(self, n):
        for _ in range(n):
            self.now += 1.0
            self.take(self.engine.step())

    @precondition(lambda self: self.open)
    @rule(at=st.integers(0, 20))
    def cancel(self, at):
        sequence = self.open[at % len(self.open)]
        self.engine.cancel(sequence)
        self.engine.cancel(sequence)
        assert not sequence.pages
        self.cancelled.add(sequence.id)

    @rule(which=st.integers(0, len(MENU) - 1), n_keep=st.integers(0, 70))
    def forget(self, which, n_keep):
        self.engine.cache.forget((MENU[which].tenant, "", 1), MENU[which].prompt_ids, n_keep)

    @precondition(lambda self: self.engine.scheduler.running)
    @rule(at=st.integers(0, 20))
    def preempt(self, at):
        running = self.engine.scheduler.running
        self.engine.scheduler.preempt(running[at % len(running)])

    @rule(seconds=st.integers(1, 20))
    def wait(self, seconds):
        self.now += seconds

    @rule(fails=st.integers(0, 4))
    def fail(self, fails):
        """A step may break down: what is open ends with the error, as `EngineThread` has it."""
        self.model.fails = fails == 0
        self.now += 1.0
        try:
            self.take(self.engine.step())
        except ZeroDivisionError:
            self.engine.fail_all(EngineFailed("a bad step"))
            self.take(self.engine.take_events())
            assert not self.open
            assert self.engine.pool.n_free == N_PAGES
        self.model.fails = False

    def take(self, events):
        for event in events:
            mine = self.events[event.sequence_id]
            assert not mine or mine[-1].ending is None
            mine.append(event)
            if event.ending is not None:
                self.check_ending(event.sequence_id, event.ending)

    def check_ending(self, i, ending):
        sequence, expected = self.sequences[i], alone(self.which[i])
        found = told(self.events[i])
        assert found[0] == sequence.token_ids[sequence.n_prompt :]
        if ending.reason in ("stop", "length"):
            assert found == expected
        else:
            assert ending.reason in ("cancelled", "deadline", "error")
            assert (ending.reason == "cancelled") == (i in self.cancelled)
            assert [part == whole[: len(part)] for part, whole in zip(found, expected, strict=True)] == [True] * 3
        if sequence.deadline is not None and ending.reason != "error":
            assert (ending.reason == "deadline") <= (self.now >= sequence.deadline)
        assert not sequence.pages

    @invariant()
    def pages_are_counted_right(self):
        self.check_pages()
        assert all(len(s.pages) == n_pages_for(s.n_computed) for s in self.engine.scheduler.running)

    def teardown(self):
        for _ in range(2000):
            if not self.engine.has_work:
                break
            self.step(1)
        assert not self.open
        check_pages(self.engine.cache, [])
        assert self.engine.cache.n_available == N_PAGES
        self.engine.cache.clear()
        assert self.engine.pool.n_free == N_PAGES


TestRequests = pytest.mark.slow(Requests.TestCase)
TestRequests.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, derandomize=True)
