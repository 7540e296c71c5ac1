"""Drives an engine in a thread of its own, so that requests go on together, whoever waits for which.

The thread lives while there is work.
"""

import contextlib
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TypeVar, cast

from samovar.engine.client import Deliver, OpenRequests, Ticket
from samovar.engine.engine import Engine
from samovar.engine.realm import Realm
from samovar.engine.request import Ending, Event, Grammar, Request
from samovar.errors import EngineFailed, FormatError, SamovarError

T = TypeVar("T")
_CLOSED = "the model was closed; open it again"


@dataclass(slots=True)
class _Shared:
    """What the thread and its owner share."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    commands: deque[Callable[[], None]] = field(default_factory=deque)
    thread: threading.Thread | None = None
    is_stopping: bool = False


class EngineThread:
    """The only user of `engine`; an `EngineClient`."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._shared = engine, _Shared()
        self._open = OpenRequests(engine.limits.max_running, engine.limits.max_waiting)
        self._tickets: dict[int, Ticket] = {}
        self._ids = itertools.count(1)
        weakref.finalize(self, _stop, self._shared)  # at exit the thread must not be inside native code

    def submit(self, request: Request, deliver: Deliver, *, leader: Ticket | None = None, is_idle_work: bool = False) -> Ticket:
        """Hand in a request; `leader` and `is_idle_work` as in `Engine.submit`, which says what this raises."""
        self._engine.check(request)
        matcher = self._engine.matcher(request)
        self._open.open(self._engine.expected_wait_s, is_idle_work=is_idle_work)
        ticket = Ticket(next(self._ids), request, deliver, leader, is_idle_work)
        self._do(lambda: self._admit(ticket, matcher))
        return ticket

    def check(self, request: Request) -> None:
        """Raises what `submit` would, for a request that can never be served."""
        self._engine.check(request)
        self._engine.matcher(request)

    def cancel(self, ticket: Ticket) -> None:
        """End a request within one step; nothing happens to one that has ended."""
        self._tell_engine(lambda: self._engine.cancel(ticket.sequence) if ticket.sequence is not None else None)

    def stop_thinking(self, ticket: Ticket) -> None:
        """Have a request's thoughts closed, and its answer begun; nothing happens to one that has ended."""
        self._tell_engine(lambda: ticket.sequence.control.stop_thinking() if ticket.sequence is not None else None)

    def forget(self, realm: Realm, ids: tuple[int, ...], n_keep: int) -> None:
        """`PrefixCache.forget`, between two steps."""
        self._tell_engine(lambda: self._engine.cache.forget(realm, ids, n_keep))

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
        self._open.aside(function)

    def settle(self) -> None:
        """Wait until every request has ended and `deliver` has returned, idle work included."""
        self._open.settle()

    def close(self) -> None:
        """Stop after the step that is running. Open requests end with EngineFailed."""
        _stop(self._shared)
        self._open.close()

    def _tell_engine(self, command: Callable[[], None]) -> None:
        """Have the thread run a command that means nothing to a closed model."""
        with contextlib.suppress(EngineFailed):
            self._do(command)

    def _do(self, command: Callable[[], None]) -> None:
        """Have the thread run a command before its next step."""
        shared = self._shared
        with shared.lock:
            if shared.is_stopping:
                raise EngineFailed(_CLOSED)
            shared.commands.append(command)
            if shared.thread is None:
                shared.thread = threading.Thread(target=self._run, name="samovar-engine", daemon=True)
                shared.thread.start()

    def _admit(self, ticket: Ticket, matcher: Grammar | None) -> None:
        leader = ticket.leader.sequence if ticket.leader is not None else None
        try:
            self._engine.check_adapter(ticket.request)  # it may have been unloaded since the request was checked
            ticket.sequence = self._engine.admit(ticket.request, matcher, leader=leader, is_idle_work=ticket.is_idle_work)
        except Exception as error:  # no sequence has come of it, and the ticket still has to get its ending
            failure = error if isinstance(error, SamovarError) else _failure("at the start", error)
            self._tell(ticket, Event(sequence_id=0, ending=Ending(reason="error", error=failure)))
        else:
            self._tickets[ticket.sequence.id] = ticket

    def _run(self) -> None:
        """Step until there is nothing to do, or the model is closed."""
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
        while shared.commands:  # somebody may wait for what they bring
            shared.commands.popleft()()
        for ticket in list(self._tickets.values()):
            self._tell(ticket, Event(sequence_id=0, ending=Ending(reason="error", error=EngineFailed(_CLOSED))))
        self._tickets.clear()

    def _step(self) -> None:
        engine = self._engine
        try:
            events = engine.step()
        except Exception as error:  # whatever it is, every open request has to hear of it
            engine.fail_all(_failure("in a step", error))
            events = engine.take_events()
        self._deliver(events)

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            ticket = self._tickets[event.sequence_id]
            if event.ending is not None:
                del self._tickets[event.sequence_id]
            self._tell(ticket, event)

    def _tell(self, ticket: Ticket, event: Event) -> None:
        """Pass an event on. Whoever cannot listen any more wants nothing more."""
        try:
            self._open.tell(ticket, event)
        except Exception:  # the others go on
            if ticket.sequence is not None:
                self._engine.cancel(ticket.sequence)


def _failure(where: str, error: Exception) -> EngineFailed:
    if isinstance(error, FormatError):  # weights that are read behind the first prompt: no second try can succeed
        failure = EngineFailed(f"the model cannot be computed: {error}")
    else:
        failure = EngineFailed(f"the engine failed {where} ({type(error).__name__}: {error}); the request can be sent again")
    failure.__cause__ = error
    return failure


def _stop(shared: _Shared) -> None:
    with shared.lock:
        shared.is_stopping = True
        thread = shared.thread
    if thread is not None and thread is not threading.current_thread():
        thread.join()
