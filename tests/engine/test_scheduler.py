"""The scheduler without a model: what it plans is 'computed' by counting."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samovar.engine.page_pool import PagePool, n_pages_for
from samovar.engine.prefix_cache import PrefixCache
from samovar.engine.request import Request, SamplingParams
from samovar.engine.scheduler import IDLE_RANK, PRIORITY_S, Scheduler
from samovar.engine.sequence import Sequence
from samovar.kernels import PAGE_TOKENS
from tests.engine.page_checks import check_pages, check_writes

MIN_CHUNK, TALKING = 16, 32
SAMPLING = SamplingParams()


class House:
    """A scheduler whose sequences are computed by counting; a step takes a second."""

    def __init__(self, *, n_pages=64, max_step=64, max_mixed=24, max_running=8, is_on=True):
        self.cache = PrefixCache(PagePool("f32", n_pages=n_pages, n_layers=1, n_kv_heads=1, d_head=1), is_on=is_on)
        self.scheduler = Scheduler(
            self.cache,
            max_step_tokens=max_step,
            max_mixed_tokens=max_mixed,
            max_running=max_running,
            begin=self.begin,
            retire=self.retire,
        )
        self.now, self.n_admitted, self.ended, self.plans, self.retired = 0, 0, [], [], []

    def add(self, n_prompt, n_answer=1, *, priority=0, is_idle=False, leader=None, ids=None, **options):
        self.n_admitted += 1
        ids = ids or range(1000 * self.n_admitted, 1000 * self.n_admitted + n_prompt)
        sequence = Sequence(
            request=Request(prompt_ids=tuple(ids), sampling=SAMPLING, priority=priority, **options),
            token_ids=list(ids),
            id=self.n_admitted,
            rank=IDLE_RANK if is_idle else self.now - PRIORITY_S * priority,
            max_tokens=n_answer,
            leader=leader,
        )
        self.scheduler.add(sequence)
        return sequence

    def begin(self, sequence):
        match, sequence.node = self.cache.take_up(sequence.realm, sequence.token_ids, sequence.pages)
        sequence.n_computed, sequence.n_shared = match.n_tokens, PAGE_TOKENS * len(match.nodes)

    def retire(self, sequence):
        self.retired.append(sequence)
        self.share(sequence)
        self.cache.put_away(sequence.node, sequence.token_ids, sequence.pages, sequence.n_computed)
        sequence.node, sequence.n_computed, sequence.n_shared = None, 0, 0
        sequence.n_preempted += 1

    def share(self, sequence):
        args = sequence.node, sequence.token_ids, sequence.pages, sequence.n_shared, sequence.n_computed
        sequence.node, sequence.n_shared = self.cache.extend(*args), sequence.n_computed // PAGE_TOKENS * PAGE_TOKENS

    def step(self):
        """Plan, check the plan, and compute it; the counts by sequence."""
        scheduler = self.scheduler
        first = min([*scheduler.running, *scheduler.waiting], key=lambda s: (s.rank, s.id), default=None)
        talking = [s for s in scheduler.running if is_talking(s)]
        self.retired.clear()
        plan = scheduler.plan()
        self.check(plan, talking)
        assert first not in self.retired
        for sequence, count in plan:
            sequence.n_computed += count
            if not sequence.n_behind:
                sequence.token_ids.append(-len(sequence.token_ids))
                sequence.n_reported = len(sequence.token_ids)
            self.share(sequence)
            if sequence.n_generated >= sequence.max_tokens:
                sequence.finish_reason = "length"
                scheduler.remove(sequence)
                self.retire(sequence)
                self.ended.append(sequence)
        self.now += 1
        self.plans.append(dict(plan))
        return self.plans[-1]

    def check(self, plan, talking):
        scheduler, counts = self.scheduler, dict(plan)
        assert len(counts) == len(plan)
        assert set(counts) <= set(scheduler.running)
        assert len(scheduler.running) <= scheduler.max_running
        assert all(1 <= count <= s.n_behind for s, count in plan)
        assert all(len(s.pages) >= n_pages_for(s.n_computed + count) for s, count in plan)
        n_tokens = sum(counts.values())
        assert n_tokens <= scheduler.max_step_tokens
        n_of_talking = sum(count for s, count in plan if is_talking(s))
        if n_of_talking:
            assert n_tokens <= max(scheduler.max_mixed_tokens, n_of_talking + MIN_CHUNK)
        still = [s for s in talking if s in scheduler.running and s not in self.retired]
        if sum(s.n_behind for s in still) <= scheduler.max_step_tokens:
            assert all(counts.get(s) == s.n_behind for s in still)
        check_pages(self.cache, [s.pages for s in scheduler.running])
        check_writes(plan, self.cache)

    def run(self, n_steps=5000):
        for _ in range(n_steps):
            if not (self.scheduler.running or self.scheduler.waiting):
                return
            assert self.step(), "nothing was planned, and something waits"
        raise AssertionError("it does not come to an end")


def is_talking(sequence):
    return sequence.n_reported > sequence.n_prompt and sequence.n_behind <= TALKING


jobs = st.tuples(
    st.integers(1, 150),
    st.integers(1, 60),
    st.integers(-2, 2),
    st.integers(0, 40),
    st.sampled_from([False, False, False, True]),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    arrivals=st.lists(jobs, min_size=1, max_size=12),
    n_pages=st.integers(7, 30),
    max_step=st.sampled_from([1, 5, 64, 512]),
    max_mixed=st.sampled_from([1, 24, 96]),
    max_running=st.integers(1, 8),
    is_on=st.booleans(),
)
def test_every_plan_keeps_to_budget_and_pages_and_everyone_ends(arrivals, n_pages, max_step, max_mixed, max_running, is_on):
    house = House(n_pages=n_pages, max_step=max_step, max_mixed=max_mixed, max_running=max_running, is_on=is_on)
    arrivals = sorted(arrivals, key=lambda job: job[3])
    while arrivals or house.scheduler.running or house.scheduler.waiting:
        while arrivals and arrivals[0][3] <= house.now:
            n_prompt, n_answer, priority, _, is_idle = arrivals.pop(0)
            house.add(n_prompt, n_answer, priority=priority, is_idle=is_idle)
        house.step()
        assert house.now < 20_000
    assert len(house.ended) == house.n_admitted
    assert [s.n_generated for s in house.ended] == [s.max_tokens for s in house.ended]
    house.cache.clear()
    assert house.cache.pool.n_free == n_pages


@settings(max_examples=40, deadline=None, derandomize=True)
@given(prompts=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 120)), min_size=2, max_size=10), n_pages=st.integers(6, 20))
def test_texts_that_share_their_beginnings_end_in_few_pages_too(prompts, n_pages):
    house = House(n_pages=n_pages)
    for which, n in prompts:
        house.add(n, 20, ids=range(1000 * which, 1000 * which + n))
    house.run()
    assert len(house.ended) == len(prompts)


def test_an_empty_house_plans_nothing():
    assert House().scheduler.plan() == []


def test_a_talking_stream_gets_its_token_in_every_step_while_a_long_prompt_is_chunked():
    house = House()
    stream = house.add(5, 40)
    house.step()
    long = house.add(300)
    while long not in house.ended:
        plan = house.step()
        assert plan[stream] == 1
        assert sum(plan.values()) <= 24
    assert max(plan[long] for plan in house.plans if long in plan) == 23


def test_a_prompt_alone_takes_the_whole_step():
    house = House()
    long = house.add(150)
    house.run()
    assert [plan[long] for plan in house.plans] == [64, 64, 22]


def test_however_many_streams_talk_a_prompt_goes_on_by_a_small_chunk():
    house = House(max_mixed=4, max_running=16)
    streams = [house.add(3, 100) for _ in range(10)]
    while not all(is_talking(s) for s in streams):
        house.step()
    first, second = house.add(20), house.add(20)
    assert house.step() == {**dict.fromkeys(streams, 1), first: MIN_CHUNK}
    assert house.step() == {**dict.fromkeys(streams, 1), first: 4, second: 12}


def test_many_short_prompts_do_not_stall_a_talking_stream():
    house = House(max_running=64, max_step=512)
    stream = house.add(3, 1000)
    house.step()
    for _ in range(50):
        house.add(10, 20)
    for _ in range(10):
        assert house.step()[stream] == 1  # that a step with streams stays small is checked at each


def test_a_text_put_there_by_force_is_computed_in_one_step():
    house = House()
    stream = house.add(5, 40)
    house.step()
    house.add(300)
    house.step()
    stream.token_ids += range(9)
    assert house.step()[stream] == 10


def test_earlier_requests_go_first_and_higher_priority_before_them():
    house = House(max_running=1)
    first, second = house.add(5, 3), house.add(5, 3)
    house.now += 1
    urgent, later = house.add(5, 3, priority=1), house.add(5, 3)
    house.run()
    assert house.ended == [urgent, first, second, later]
    assert not any(s.n_preempted > 1 for s in house.ended)  # each was retired once, at its end


def test_a_request_of_higher_priority_takes_the_place_of_one_of_lower_priority_in_a_full_house():
    house = House(max_running=2)
    old, new = house.add(5, 50), house.add(5, 50, priority=-1)
    house.step()
    urgent = house.add(5, 3, priority=1)
    plan = house.step()
    assert set(plan) == {old, urgent}
    assert house.scheduler.waiting == [new]
    equal = house.add(5, 3, priority=0)
    assert equal not in house.step()  # of one priority, nobody gives way
    house.run()
    assert house.ended[0] is urgent
    assert house.scheduler.n_preempted == 1


def test_pages_are_taken_from_the_last_in_rank_and_it_computes_them_again():
    house = House(n_pages=4)
    first, second = house.add(30, 60), house.add(30, 60)
    house.step()
    house.run()
    assert house.ended == [first, second]
    assert (first.n_preempted, second.n_preempted) == (1, 2)  # their ends count as one each


def test_a_stream_that_has_to_give_its_pages_to_an_earlier_prompt_is_not_in_that_plan():
    house = House(n_pages=22, max_step=512, max_mixed=2)
    long, stream = house.add(20 * PAGE_TOKENS, prompt_logprobs=0), house.add(31, 100)
    house.run()
    assert house.ended == [long, stream]
    assert house.scheduler.n_preempted == 1


def test_a_full_house_admits_nobody_whom_the_texts_that_run_will_push_out():
    house = House(n_pages=10, max_step=512)
    long, other = house.add(8 * PAGE_TOKENS, prompt_logprobs=0), house.add(3 * PAGE_TOKENS)  # the first is cut to chunks of 64
    house.run()
    assert house.ended == [long, other]
    assert house.scheduler.n_preempted == 0


def test_one_that_has_waited_for_its_leader_takes_nobodys_place():
    house = House(max_running=2)
    leader = house.add(100, 20)
    follower = house.add(100, 20, leader=leader, ids=leader.request.prompt_ids)
    other = house.add(200, 20)
    while not is_talking(other):
        house.step()
    house.run()
    assert house.ended[-1] is follower
    assert house.scheduler.n_preempted == 0


def test_one_that_has_waited_long_enough_gives_way_to_no_later_one_however_urgent():
    house = House(max_running=1)
    patient = house.add(5, 100, priority=-1)
    for _ in range(int(2 * PRIORITY_S)):
        house.step()
    urgent = house.add(5, 1, priority=1)
    house.run()
    assert house.ended == [patient, urgent]
    assert house.scheduler.n_preempted == 0


def test_one_that_gives_way_does_not_return_in_the_same_plan():
    house = House(n_pages=6, max_step=512)
    low = house.add(4 * PAGE_TOKENS, 40, priority=-1)
    house.step()
    urgent = house.add(3 * PAGE_TOKENS, 40)
    plan = house.step()
    assert set(plan) == {urgent}
    assert house.scheduler.waiting == [low]
    house.run()
    assert house.scheduler.n_preempted == 1


def test_nobody_overtakes_the_first_in_the_queue_for_whom_there_is_no_room():
    house = House(n_pages=6)
    running = house.add(5 * PAGE_TOKENS - 20, 10)
    house.step()
    big = house.add(3 * PAGE_TOKENS)
    house.add(3)
    while running not in house.ended:
        assert set(house.step()) == {running}
    assert big in house.step()
    house.run()


def test_a_request_of_low_priority_ends_under_an_endless_flow_of_urgent_ones():
    house = House(max_running=2, n_pages=8)
    patient = house.add(100, 50, priority=-1)
    while patient not in house.ended:
        house.add(40, 2, priority=1)
        house.step()
        assert house.now < 1000
    assert house.now >= 2 * PRIORITY_S


def test_a_long_prompt_of_the_same_priority_ends_under_an_endless_flow_of_short_ones():
    house = House(max_running=4, n_pages=20)
    long = house.add(500, 3)
    while long not in house.ended:
        for _ in range(3):
            house.add(9, 5)
        house.step()
        assert house.now < 200


def test_idle_work_is_done_while_nothing_else_is_and_gives_way_at_once():
    house = House()
    idle = [house.add(200, 5, is_idle=True), house.add(200, 5, is_idle=True)]
    assert set(house.step()) == {idle[0]}
    other = house.add(100, 5)
    while other not in house.ended:
        assert set(house.step()) == {other}
    assert idle[0].n_preempted == 1
    house.run()
    assert house.ended == [other, *idle]


def test_idle_work_goes_on_while_what_waits_is_not_ready():
    house = House()
    leader = house.add(100, 3)
    follower = house.add(100, 3, leader=leader, ids=leader.request.prompt_ids)
    idle = house.add(10, 3, is_idle=True)
    while leader.n_computed < 100:
        assert set(house.step()) == {leader}
    house.run()
    assert house.ended[-1] is idle
    assert not idle.n_preempted > 1
    assert follower.n_preempted == 1


def test_those_with_a_leader_wait_until_it_has_computed_their_prompt_and_share_its_pages():
    house = House(max_step=50)
    leader = house.add(100, 20)
    followers = [house.add(100, 20, leader=leader, ids=leader.request.prompt_ids) for _ in range(3)]
    assert house.step() == {leader: 50}
    assert house.step() == {leader: 50}
    assert leader.n_computed == 100
    plan = house.step()
    assert set(plan) == {leader, *followers[: len(plan) - 1]}
    assert all(count <= 4 for s, count in plan.items())  # 96 tokens are in whole pages
    assert all(s.pages[:3] == leader.pages[:3] for s in plan)
    house.run()


@pytest.mark.parametrize("n_pages", [5, 6])
def test_followers_of_a_leader_that_loses_its_pages_still_end(n_pages):
    house = House(n_pages=n_pages)
    leader = house.add(60, 60)
    for _ in range(4):
        house.add(60, 60, leader=leader, ids=leader.request.prompt_ids)
    house.step()
    urgent = house.add(5 * PAGE_TOKENS - 50, 50, priority=2)
    house.run()
    assert len(house.ended) == 6
    assert house.ended[0] is urgent
    assert leader.n_preempted > 1
