"""The engine's thread: many callers at once, steps that break down, and endings that come exactly once."""

import random
import threading
from queue import SimpleQueue

import pytest

from samovar.engine.engine import Limits
from samovar.engine.engine_thread import EngineThread
from samovar.errors import BadRequest, EngineFailed, Overloaded, PromptTooLong
from tests.engine.fakes import VOCAB, TinyModel, generate, ids_of, request, tiny_engine

PROMPT = [5, 17, 3, 88, 42, 9, 60, 1, 33] * 5
WAIT_S = 60


class GatedModel(TinyModel):
    """Waits in every step until the gate is open, and raises what it is told to."""

    def __init__(self):
        super().__init__()
        self.gate, self.entered, self.n_calls = threading.Event(), threading.Event(), 0
        self.errors: dict[int, Exception] = {}  # by the number of the call
        self.gate.set()

    def __call__(self, *args):
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        self.n_calls += 1
        if self.n_calls in self.errors:
            raise self.errors[self.n_calls]
        return super().__call__(*args)


class Caller:
    """Takes down what it is told."""

    def __init__(self):
        self.events, self.ended = [], threading.Event()

    def __call__(self, event):
        assert not self.ended.is_set(), "told something after the ending"
        self.events.append(event)
        if event.ending is not None:
            self.ended.set()

    def ending(self):
        assert self.ended.wait(WAIT_S)
        return self.events[-1].ending

    @property
    def ids(self):
        return [i for event in self.events for i in event.token_ids]


@pytest.fixture
def start():
    """Starts threads over tiny engines, and closes them."""
    threads = []

    def start(model=None, **settings):
        threads.append(EngineThread(tiny_engine(model=model, **settings)))
        return threads[-1]

    yield start
    for thread in threads:
        thread.close()


def ask(thread, asked, **options):
    caller = Caller()
    caller.ticket = thread.submit(asked, caller, **options)
    return caller


def held(start, **settings):
    """A thread that is inside a step, until its model's gate is opened, and the caller of its one request."""
    model = GatedModel()
    model.gate.clear()
    thread = start(model, **settings)
    caller = ask(thread, request(PROMPT))
    assert model.entered.wait(WAIT_S)
    return thread, model, caller


def test_requests_of_many_threads_get_the_answers_they_get_alone(start):
    thread = start(n_pages=12, limits=Limits(max_running=5))
    menu = [request(PROMPT[: 1 + 7 * i], temperature=1.0, seed=i, max_tokens=5 + i) for i in range(6)]
    alone = [ids_of(generate(tiny_engine(), asked)[0]) for asked in menu]
    failures = SimpleQueue()

    def work(seed):
        try:
            rng = random.Random(seed)
            for _ in range(6):
                which = rng.randrange(len(menu))
                caller = ask(thread, menu[which])
                if rng.random() < 0.4:
                    thread.cancel(caller.ticket)
                    assert caller.ending().reason in ("cancelled", "length")
                else:
                    assert caller.ending().reason == "length"
                    assert caller.ids == alone[which]
                assert caller.ids == alone[which][: len(caller.ids)]
                thread.cancel(caller.ticket)  # of one that has ended: nothing happens
        except BaseException as error:
            failures.put(error)
            raise

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(WAIT_S)
    assert failures.empty()
    thread.settle()
    assert thread.call(lambda engine: engine.cache.n_available) == 12


@pytest.mark.parametrize("error", [ZeroDivisionError("by nought"), MemoryError()])
def test_a_step_that_breaks_down_ends_every_open_request_once_and_the_next_one_works(start, error):
    thread, model, first = held(start, limits=Limits(max_running=2))
    callers = [first, *(ask(thread, request(PROMPT[:n])) for n in (5, 9, 40))]
    callers.append(ask(thread, request(PROMPT[:40]), leader=callers[-1].ticket))
    callers.append(ask(thread, request(PROMPT[:3]), is_idle_work=True))
    model.errors[2] = error  # when some run and some wait
    model.gate.set()
    for caller in callers:
        assert caller.ending().reason == "error"
        assert isinstance(caller.ending().error, EngineFailed)
        assert type(error).__name__ in str(caller.ending().error)
        assert caller.ending().error.__cause__ is error
    assert [len(caller.ids) for caller in callers] == [1, 0, 0, 0, 0, 0]
    assert ask(thread, request(PROMPT)).ending().reason == "length"
    thread.settle()
    assert thread.call(lambda engine: (engine.cache.clear(), engine.pool.n_free)[1]) == 32


def test_after_a_breakdown_the_same_request_gets_its_right_answer(start):
    model = GatedModel()
    thread = start(model)
    model.errors[3] = ValueError("bad")
    assert ask(thread, request(PROMPT)).ending().reason == "error"
    again = ask(thread, request(PROMPT))
    assert again.ending().n_cached == 0
    assert again.ids == ids_of(generate(tiny_engine(), request(PROMPT))[0])


def test_a_cancelled_request_gets_no_token_of_a_later_step(start):
    thread, model, caller = held(start)
    thread.cancel(caller.ticket)
    waiting = ask(thread, request(PROMPT))
    thread.cancel(waiting.ticket)
    model.gate.set()
    assert caller.ending().reason == waiting.ending().reason == "cancelled"
    assert len(caller.ids) == 1  # that of the step that was running
    assert not waiting.ids


def test_a_full_queue_refuses_at_once_and_says_how_long_to_wait(start):
    model = GatedModel()
    thread = start(model, limits=Limits(max_running=1, max_waiting=2))
    assert ask(thread, request(PROMPT)).ending().reason == "length"  # so that speeds are known
    thread.settle()
    model.gate.clear()
    idle = [ask(thread, request(PROMPT), is_idle_work=True) for _ in range(3)]  # takes no place in the queue
    callers = [ask(thread, request(PROMPT)) for _ in range(3)]
    with pytest.raises(Overloaded, match=r"2 requests are waiting.*try again in about") as caught:
        ask(thread, request(PROMPT))
    assert caught.value.n_waiting == 2
    assert caught.value.wait_s > 0
    model.gate.set()
    assert [caller.ending().reason for caller in [*callers, *idle]] == ["length"] * 6
    thread.settle()
    assert ask(thread, request(PROMPT)).ending().reason == "length"


def test_requests_that_cannot_be_served_are_refused_where_they_are_handed_in(start):
    thread = start(max_context=50)
    for asked, error in ((request([1] * 50), PromptTooLong), (request([VOCAB]), BadRequest), (request([]), BadRequest)):
        with pytest.raises(error):
            ask(thread, asked)
    thread.settle()


def test_an_answer_ends_when_its_deadline_has_passed(start):
    model = TinyModel()
    thread = start(model, clock=lambda: float(len(model.n_tokens_per_call)))  # a step takes a second
    hurried, calm = ask(thread, request(PROMPT, deadline_s=5)), ask(thread, request(PROMPT, deadline_s=500))
    assert hurried.ending().reason == "deadline"
    assert 4 <= len(hurried.ids) <= 5
    assert calm.ending().reason == "length"


def test_several_answers_to_one_prompt_compute_it_once(start):
    thread, model, first = held(start)
    followers = [
        ask(thread, request(PROMPT, temperature=1.0, seed=seed), leader=first.ticket) for seed in range(3)
    ]  # fmt: skip
    model.gate.set()
    thread.settle()
    assert [f.ending().n_cached for f in followers] == [32] * 3


def test_a_call_has_the_engine_to_itself_and_what_it_raises_comes_back(start):
    thread = start()
    assert thread.call(lambda engine: engine.vocab_size) == VOCAB
    with pytest.raises(KeyError, match="nothing here"):
        thread.call(lambda engine: {}["nothing here"])
    assert ask(thread, request(PROMPT)).ending().reason == "length"


def test_settling_waits_for_the_last_delivery_and_for_work_done_aside(start):
    thread = start()
    told, is_told = [], threading.Event()

    def slowly(event):
        if event.ending is not None:
            is_told.set()
            threading.Event().wait(0.05)
            told.append("ended")

    thread.submit(request(PROMPT), slowly)
    assert is_told.wait(WAIT_S)
    thread.settle()
    assert told == ["ended"]
    thread.aside(lambda: thread.submit(request(PROMPT), slowly, is_idle_work=True) and None)
    thread.settle()
    assert told == ["ended", "ended"]


def test_the_thread_lives_while_there_is_work(start):
    thread = start()
    thread.settle()
    assert ask(thread, request(PROMPT)).ending().reason == "length"
    thread.settle()
    for left in [t for t in threading.enumerate() if t.name == "samovar-engine" and t._target.__self__ is thread]:
        left.join(5)  # it has settled, and is on its way out
        assert not left.is_alive()


def test_closing_ends_what_is_open_answers_calls_and_refuses_what_comes_later(start):
    thread, model, caller = held(start)
    waiting = ask(thread, request(PROMPT))
    results = SimpleQueue()
    asking = threading.Thread(target=lambda: results.put(thread.call(lambda engine: engine.vocab_size)))
    asking.start()
    while len(thread._shared.commands) < 2:
        pass
    closing = threading.Thread(target=thread.close)
    closing.start()
    while not thread._shared.is_stopping:
        pass
    model.gate.set()
    closing.join(WAIT_S)
    asking.join(WAIT_S)
    assert results.get(timeout=1) == VOCAB
    for told in (caller, waiting):
        assert told.ended.is_set()
        assert isinstance(told.ending().error, EngineFailed)
    thread.close()
    thread.settle()
    thread.cancel(caller.ticket)
    with pytest.raises(EngineFailed, match="closed; open it again"):
        ask(thread, request(PROMPT))
    with pytest.raises(EngineFailed, match="closed"):
        thread.call(lambda engine: None)


def test_a_listener_that_fails_is_not_served_any_longer_and_the_others_are(start):
    thread, model, caller = held(start)
    heard = []

    def broken(event):
        heard.append(event)
        raise RuntimeError("the loop was closed")

    thread.submit(request(PROMPT), broken)
    model.gate.set()
    assert caller.ending().reason == "length"
    thread.settle()
    assert [event.ending and event.ending.reason for event in heard] == [None, "cancelled"]
    assert ask(thread, request(PROMPT)).ending().reason == "length"


def test_a_request_whose_drafter_cannot_be_started_ends_with_the_error(start):
    def start_drafter(asked):
        raise OSError("no such file")

    thread = start(start_drafters=(start_drafter,))
    ending = ask(thread, request(PROMPT)).ending()
    assert isinstance(ending.error, EngineFailed)
    assert "no such file" in str(ending.error)
    thread.settle()


def test_thoughts_may_be_stopped_before_and_after_a_request_has_ended(start):
    thread = start()
    caller = ask(thread, request(PROMPT))
    thread.stop_thinking(caller.ticket)
    assert caller.ending().reason == "length"
    thread.stop_thinking(caller.ticket)
    thread.settle()
