"""Drives an engine in a thread of its own, so that requests go on together, whoever waits for which.

The thread lives while there is work. Callers hand in requests and are told what comes of them through `deliver`, which is
called in that thread and must not wait for anything.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeVar, cast

from samovar.engine.engine import Engine
from samovar.engine.request import Event, Request
from samovar.engine.sequence import Sequence
from samovar.errors import EngineFailed, Overloaded

T = TypeVar("T")
Deliver = Callable[[Event], None]


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that was handed in. Its `deliver` gets every event, and an ending exactly once."""

    request: Request
    deliver: Deliver
    leader: "Ticket | None"
    is_idle_work: bool
    sequence: Sequence | None = None


@dataclass(slots=True)
class _Shared:
    """What the thread and its owner share."""

    lock: threading.Condition = field(default_factory=threading.Condition)
    commands: deque[Callable[[], None]] = field(default_factory=deque)
    thread: threading.Thread | None = None
    is_stopping: bool = False


class EngineThread:
    """The only user of `engine`. All methods may be called from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._shared = engine, _Shared()
        self._tickets: dict[int, Ticket] = {}
        self._n_open = self._n_aside = 0
        weakref.finalize(self, _stop, self._shared)  # at exit the thread must not be inside native code

    def submit(self, request: Request, deliver: Deliver, *, leader: Ticket | None = None, is_idle_work: bool = False) -> Ticket:
        """Hand in a request; `leader` and `is_idle_work` as in `Engine.submit`, which says what this raises."""
        engine, limits = self._engine, self._engine.limits
        engine.check(request)
        with self._shared.lock:
            n_waiting = self._n_open - limits.max_running
            if n_waiting >= limits.max_waiting and not is_idle_work:
                raise Overloaded(n_waiting, engine.expected_wait_s())
            self._n_open += 1
        ticket = Ticket(request, deliver, leader, is_idle_work)
        self._do(lambda: self._admit(ticket))
        return ticket

    def check(self, request: Request) -> None:
        """Raises what `submit` would, for a request that can never be served."""
        self._engine.check(request)

    def cancel(self, ticket: Ticket) -> None:
        """End a request within one step; nothing happens to one that has ended."""
        with self._shared.lock:
            if self._shared.thread is not None and not self._shared.is_stopping:
                self._do(lambda: self._engine.cancel(ticket.sequence) if ticket.sequence is not None else None)

    def stop_thinking(self, ticket: Ticket) -> None:
        """Have a request's thoughts closed, and its answer begun; nothing happens to one that has ended."""
        self._do(lambda: ticket.sequence.control.stop_thinking() if ticket.sequence is not None else None)

    def call(self, function: Callable[[Engine], T]) -> T:
        """Let a function have the engine between two steps; its result, or what it raises."""
        done: SimpleQueue[tuple[T, None] | tuple[None, Exception]] = SimpleQueue()

        def run() -> None:
            try:
                done.put((function(self._engine), None))
            except Exception as error:  # it is the caller's
                done.put((None, error))

        self._do(run)
        result, error = done.get()
        if error is not None:
            raise error
        return cast("T", result)

    def aside(self, function: Callable[[], None]) -> None:
        """Run a function in a thread of its own, which may hand in requests."""

        def run() -> None:
            try:
                function()
            finally:
                with self._shared.lock:
                    self._n_aside -= 1
                    self._shared.lock.notify_all()

        with self._shared.lock:
            self._n_aside += 1
        threading.Thread(target=run, name="samovar-aside", daemon=True).start()

    def settle(self) -> None:
        """Wait until every request has ended, idle work included."""
        with self._shared.lock:
            self._shared.lock.wait_for(lambda: self._shared.is_stopping or not (self._n_open or self._n_aside))

    def close(self) -> None:
        """Stop after the step that is running. Open requests end with an error."""
        _stop(self._shared)

    def _do(self, command: Callable[[], None]) -> None:
        """Have the thread run a command before its next step."""
        shared = self._shared
        with shared.lock:
            if shared.is_stopping:
                raise EngineFailed("the model was closed; open it again")
            shared.commands.append(command)
            if shared.thread is None:
                shared.thread = threading.Thread(target=self._run, name="samovar-engine", daemon=True)
                shared.thread.start()

    def _admit(self, ticket: Ticket) -> None:
        leader = ticket.leader.sequence if ticket.leader is not None else None
        ticket.sequence = self._engine.admit(ticket.request, leader=leader, is_idle_work=ticket.is_idle_work)
        self._tickets[ticket.sequence.id] = ticket

    def _run(self) -> None:
        """Step until there is nothing to do."""
        shared, engine = self._shared, self._engine
        while not shared.is_stopping:
            while shared.commands:
                shared.commands.popleft()()
            if engine.has_work:
                self._step()
                continue
            with shared.lock:
                if not shared.commands:
                    shared.thread = None
                    return
        while shared.commands:
            shared.commands.popleft()()
        engine.fail_all(EngineFailed("the model was closed; open it again"))
        self._deliver(engine.take_events())

    def _step(self) -> None:
        engine = self._engine
        try:
            events = engine.step()
        except Exception as error:  # whatever it is, every open request has to hear of it
            failure = EngineFailed(
                f"the engine failed in a step ({type(error).__name__}: {error}); the request can be sent again"
            )
            failure.__cause__ = error
            engine.fail_all(failure)
            events = engine.take_events()
        self._deliver(events)

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            ticket = self._tickets[event.sequence_id]
            if event.ending is not None:
                del self._tickets[event.sequence_id]
                with self._shared.lock:
                    self._n_open -= 1
                    self._shared.lock.notify_all()
            ticket.deliver(event)


def _stop(shared: _Shared) -> None:
    with shared.lock:
        shared.is_stopping = True
        shared.lock.notify_all()
        thread = shared.thread
    if thread is not None and thread is not threading.current_thread():
        thread.join()
