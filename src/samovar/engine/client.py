"""How requests reach an engine, wherever it runs: in a thread of this process, or in a process of its own."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from samovar.engine.realm import Realm
from samovar.engine.request import Event, Request
from samovar.engine.sequence import Sequence
from samovar.errors import Overloaded

Deliver = Callable[[Event], None]


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that was handed in. Its `deliver` gets every event, and an ending exactly once; it must not wait for anything.

    `id` is the client's own; `sequence` is there once the engine has taken the request up, where it runs in this process.
    `is_over` once the ending was told.
    """

    id: int
    request: Request
    deliver: Deliver
    leader: "Ticket | None"
    is_idle_work: bool
    sequence: Sequence | None = None
    is_over: bool = False


class EngineClient(Protocol):
    """Hands requests to an engine. All methods may be called from any thread."""

    def check(self, request: Request) -> None:
        """Raises what `submit` would, for a request that can never be served."""
        ...

    def submit(self, request: Request, deliver: Deliver, *, leader: Ticket | None = None, is_idle_work: bool = False) -> Ticket:
        """Hand in a request; `leader` and `is_idle_work` as in `Engine.submit`, which says what this raises."""
        ...

    def cancel(self, ticket: Ticket) -> None:
        """End a request within one step; nothing happens to one that has ended."""
        ...

    def stop_thinking(self, ticket: Ticket) -> None:
        """Have a request's thoughts closed, and its answer begun."""
        ...

    def forget(self, realm: Realm, ids: tuple[int, ...], n_keep: int) -> None:
        """`PrefixCache.forget`, between two steps."""
        ...

    def aside(self, function: Callable[[], None]) -> None:
        """Run a function in a thread of its own, which may hand in requests."""
        ...

    def settle(self) -> None:
        """Wait until every request has ended, idle work included, and every function that runs aside."""
        ...

    def close(self) -> None:
        """Stop after the step that is running. Open requests end with EngineFailed."""
        ...


class OpenRequests:
    """Counts what is open, so that a queue stays bounded and a caller can wait for the end of all."""

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self.lock = threading.Condition()
        self._max_running, self._max_waiting = max_running, max_waiting
        self._n_open = self._n_idle = self._n_aside = 0
        self._is_closed = False

    def open(self, expected_wait_s: Callable[[], float], *, is_idle_work: bool) -> None:
        """One more request. Raises Overloaded where too many wait."""
        with self.lock:
            n_waiting = self._n_open - self._max_running
            if n_waiting >= self._max_waiting and not is_idle_work:
                raise Overloaded(n_waiting, expected_wait_s())
            if is_idle_work:
                self._n_idle += 1
            else:
                self._n_open += 1

    def tell(self, ticket: Ticket, event: Event) -> None:
        """Pass an event on. With the last one the request's place is free, before its caller hears of it."""
        if event.ending is None:
            ticket.deliver(event)
            return
        ticket.is_over = True
        with self.lock:
            self._n_aside += 1  # `settle` waits for the caller to have heard
        self.end(is_idle_work=ticket.is_idle_work)
        try:
            ticket.deliver(event)
        finally:
            with self.lock:
                self._n_aside -= 1
                self.lock.notify_all()

    def end(self, *, is_idle_work: bool) -> None:
        """A request has ended, or never began."""
        with self.lock:
            if is_idle_work:
                self._n_idle -= 1
            else:
                self._n_open -= 1
            self.lock.notify_all()

    def aside(self, function: Callable[[], None]) -> None:
        """Run a function in a thread of its own."""

        def run() -> None:
            try:
                function()
            finally:
                with self.lock:
                    self._n_aside -= 1
                    self.lock.notify_all()

        with self.lock:
            self._n_aside += 1
        threading.Thread(target=run, name="samovar-aside", daemon=True).start()

    def settle(self) -> None:
        """Wait until nothing is open."""
        with self.lock:
            self.lock.wait_for(lambda: self._is_closed or not (self._n_open or self._n_idle or self._n_aside))

    def close(self) -> None:
        """Nobody has to wait any more."""
        with self.lock:
            self._is_closed = True
            self.lock.notify_all()
