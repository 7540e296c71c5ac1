"""How much each caller may use."""

from contextlib import contextmanager

import pytest

from samovar.serving.caller import LOCAL, Caller
from samovar.serving.limits import LimitReached, Limits
from tests.llm.remote_processes import until
from tests.llm.scripted import is_idle, scripted
from tests.serving.served import served
from tests.serving.test_openai_chat import QUESTION, said

BOB = Caller(id="b", name="bob", max_requests_per_minute=3, max_tokens_per_minute=100, max_streams=2)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limits(clock):
    return Limits(clock)


def test_requests_are_counted_and_come_back_evenly(limits, clock):
    for _ in range(3):
        with limits.admit(BOB):
            pass
    with pytest.raises(LimitReached, match="3 requests a minute") as caught, limits.admit(BOB):
        pass
    assert caught.value.retry_s == pytest.approx(20)
    clock.now += 19.9
    with pytest.raises(LimitReached), limits.admit(BOB):
        pass
    clock.now += 0.2
    with limits.admit(BOB):
        pass


def test_tokens_are_counted_when_a_request_tells_them_and_who_waits_as_told_comes_in(limits, clock):
    with limits.admit(BOB) as count:
        count(150)
    with pytest.raises(LimitReached, match="100 tokens a minute") as caught, limits.admit(BOB):
        pass
    clock.now += caught.value.retry_s + 0.01
    with limits.admit(BOB):
        pass


def test_streams_are_counted_while_they_are_open_however_they_end(limits):
    bob = Caller(id="b", name="bob", max_streams=2)
    with limits.admit(bob):
        with pytest.raises(ValueError, match="broken"), limits.admit(bob):
            raise ValueError("broken")
        with limits.admit(bob), pytest.raises(LimitReached, match="2 requests of this key are open"), limits.admit(bob):
            pass
    with limits.admit(bob):
        pass


def test_callers_do_not_pay_for_each_other_and_who_has_no_limits_is_never_stopped(limits):
    other = Caller(id="c", name="bob", max_streams=1)
    with limits.admit(BOB), limits.admit(BOB), limits.admit(other):
        for _ in range(100):
            with limits.admit(LOCAL) as count:
                count(10**9)


class Recording(Limits):
    """Remembers what was counted."""

    def __init__(self, counted):
        super().__init__()
        self._counted = counted

    @contextmanager
    def admit(self, caller):
        with super().admit(caller) as count:
            yield lambda n: (self._counted.append(n), count(n))


def test_a_client_that_leaves_pays_for_what_was_computed(hybrid):
    counted = []

    with served({"hybrid": hybrid}, limits=Recording(counted)) as server, scripted(hybrid, said(hybrid, "word " * 2000)):
        body = {"messages": QUESTION, "enable_thinking": False, "stream": True}
        with server.client.stream("POST", "/v1/chat/completions", json=body) as reply:
            lines = reply.iter_lines()
            for _ in range(20):
                next(lines)
        hybrid.settle()
        until(lambda: not server.server.drain.n_open)
        assert 15 < counted[0] < 2000
        assert server.client.post("/v1/chat/completions", json=body | {"stream": False, "max_tokens": 7}).status_code == 200
        assert len(counted) == 2
    assert is_idle(hybrid)
