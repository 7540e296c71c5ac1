"""A model that is open in a process of its own. A crash there gives every open request one error, and the process comes
back."""

import contextlib
import itertools
import logging
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Literal

from samovar.engine.client import Deliver, OpenRequests, Ticket
from samovar.engine.realm import Realm
from samovar.engine.request import Ending, Event, Request, check_request
from samovar.errors import EngineFailed, SamovarError
from samovar.formats import open_checkpoint
from samovar.formats.hub import default_cache, default_store, resolve
from samovar.llm.engine_stats import EngineStats
from samovar.llm.local_model import Progress as OnProgress
from samovar.llm.model_card import read_card
from samovar.llm.model_settings import ModelSettings
from samovar.llm.model_text import ModelText, read_model_text, with_template
from samovar.llm.wire import (
    Answered,
    Call,
    Cancel,
    Channel,
    Check,
    Forget,
    FromEngine,
    Happened,
    Open,
    Opened,
    Progress,
    Refused,
    StopThinking,
    Submit,
    ToEngine,
)
from samovar.models.loader import read_config

_LOG = logging.getLogger("samovar.llm")
_MAX_CRASHES = 5  # within _CRASH_WINDOW_S; then it stays down
_CRASH_WINDOW_S = 60.0
_GRACE_S = 5.0
_CLOSED = "the model was closed; open it again"
CallName = Literal["load_adapter", "unload_adapter", "save_prefixes", "load_prefixes", "stats"]


@dataclass(slots=True)
class _Child:
    """The process of the model and the socket to it."""

    process: subprocess.Popen[bytes]
    channel: Channel

    def end(self) -> None:
        """Stop it."""
        self.channel.shut()
        try:
            self.process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.channel.close()


@dataclass(slots=True)
class _Shared:
    """What survives the client for as long as its threads need it."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    child: _Child | None = None
    is_closed: bool = False
    failure: SamovarError | None = None  # why it stays down


class ProcessClient:
    """An `EngineClient` whose engine runs in a process that it starts, and starts again."""

    def __init__(self, settings: ModelSettings, vocab_size: int, progress: OnProgress | None) -> None:
        """Raises what opening the model there raises."""
        self._settings, self._vocab_size = settings, vocab_size
        self._progress = progress
        self._open = OpenRequests(settings.max_streams, settings.max_waiting)
        self._tickets: dict[int, Ticket] = {}
        self._calls: dict[int, SimpleQueue[Answered]] = {}
        self._ids = itertools.count(1)
        self._wait_s = 1.0
        self._crashes: list[float] = []
        self.adapters: dict[str, str] = {}  # loaded again when the process comes back
        self._shared = _Shared()
        self.opened = self._start()
        weakref.finalize(self, _close, self._shared)
        threading.Thread(
            target=_listen, args=(weakref.ref(self), self._shared), name="samovar-engine-process", daemon=True
        ).start()

    @property
    def process_id(self) -> int | None:
        """Of the process that runs the model; None while it is down."""
        child = self._shared.child
        return child.process.pid if child is not None else None

    @property
    def has_failed(self) -> bool:
        """Whether the process stays down."""
        return self._shared.failure is not None

    def check(self, request: Request) -> None:
        """Raises what `submit` would, for a request that can never be served."""
        check_request(request, self.opened.max_context, self._vocab_size)
        if request.grammar is not None or request.adapter is not None:  # which only the other process can judge
            self._ask(lambda call_id: Check(call_id, request))

    def submit(self, request: Request, deliver: Deliver, *, leader: Ticket | None = None, is_idle_work: bool = False) -> Ticket:
        """Hand in a request; `leader` and `is_idle_work` as in `Engine.submit`, which says what this raises."""
        self.check(request)
        self._open.open(lambda: self._wait_s, is_idle_work=is_idle_work)
        ticket = Ticket(next(self._ids), request, deliver, leader, is_idle_work)
        with self._shared.lock:
            if self._shared.is_closed or self._shared.failure is not None:
                self._open.end(is_idle_work=ticket.is_idle_work)
                raise self._shared.failure or EngineFailed(_CLOSED)
            self._tickets[ticket.id] = ticket
            child = self._shared.child
        if child is not None:  # else it is sent when the process is back
            _send(child, _submission(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """End a request within one step; nothing happens to one that has ended."""
        if not self._send(Cancel(ticket.id)):  # it waits for the process to come back
            self._pass_on(ticket.id, Event(sequence_id=0, ending=Ending(reason="cancelled")))

    def stop_thinking(self, ticket: Ticket) -> None:
        """Have a request's thoughts closed, and its answer begun."""
        self._send(StopThinking(ticket.id))

    def forget(self, realm: Realm, ids: tuple[int, ...], n_keep: int) -> None:
        """`PrefixCache.forget`, between two steps."""
        self._send(Forget(realm, ids, n_keep))

    def call(self, name: CallName, *arguments: str, timeout_s: float | None = None) -> int | EngineStats | None:
        """Have the other process do something with its model; what that returns. Raises what it raises, and EngineFailed where
        nothing comes within `timeout_s`."""
        answered = self._ask(lambda call_id: Call(call_id, name, arguments), timeout_s)
        if answered is None:
            raise self._shared.failure or EngineFailed("the model's process is down; try again in a moment")
        return answered.value

    def _ask(self, message: Callable[[int], Call | Check], timeout_s: float | None = None) -> Answered | None:
        """What the other process answers to a message with the id given; None while it is down, or where nothing comes in time.
        Raises the answer's error."""
        answer: SimpleQueue[Answered] = SimpleQueue()
        call_id = next(self._ids)
        with self._shared.lock:
            if (child := self._shared.child) is None:
                return None
            self._calls[call_id] = answer
        try:
            _send(child, message(call_id))
            answered = answer.get(timeout=timeout_s)
        except Empty:
            return None
        finally:
            self._calls.pop(call_id, None)
        if answered.error is not None:
            raise answered.error
        return answered

    def aside(self, function: Callable[[], None]) -> None:
        """Run a function in a thread of its own, which may hand in requests."""
        self._open.aside(function)

    def settle(self) -> None:
        """Wait until every request has ended, idle work included."""
        self._open.settle()

    def close(self) -> None:
        """End the process. Open requests end with an error."""
        _close(self._shared)
        self._fail(EngineFailed(_CLOSED), list(self._tickets), list(self._calls))
        self._open.close()

    def _send(self, message: ToEngine) -> bool:
        """Whether there is a process that can be told."""
        with self._shared.lock:
            child = self._shared.child
        if child is not None:
            _send(child, message)
        return child is not None

    def _start(self) -> Opened:
        """Start the process, and wait until the model is open in it."""
        try:
            child = _spawn()
        except OSError as error:
            raise EngineFailed(f"no process could be started for the model: {error.strerror or error}") from error
        try:
            return self._open_in(child)
        except BaseException:
            child.end()
            raise

    def _open_in(self, child: _Child) -> Opened:
        """Have a process open the model, and what there was before it: adapters, and the requests that wait."""
        try:
            child.channel.send(Open(self._settings))
            while isinstance(message := child.channel.receive(), Progress):
                if self._progress is not None:
                    self._progress(message.n_done, message.n_total, message.what)
        except (EOFError, OSError) as error:
            child.end()
            raise EngineFailed(f"the model's process ended while it opened the model ({_how(child.process)})") from error
        if isinstance(message, Refused):
            raise message.error
        assert isinstance(message, Opened), message
        with self._shared.lock:  # nobody's message comes before these
            if self._shared.is_closed:
                raise EngineFailed(_CLOSED)
            for name, path in self.adapters.items():
                _send(child, Call(next(self._ids), "load_adapter", (name, path)))
            for ticket in list(self._tickets.values()):
                _send(child, _submission(ticket))
            self._shared.child = child
        return message

    def recover(self, child: _Child) -> None:
        """A process has ended: tell those who wait for it, and start another, unless the client was closed."""
        with self._shared.lock:
            self._shared.child = None
            if self._shared.is_closed:
                return
            lost, calls = list(self._tickets), list(self._calls)
        child.end()
        how = _how(child.process)
        _LOG.warning("the model's process ended (%s) with %d requests open, and is started again", how, len(lost))
        again = f"the model's process ended ({how}) and is started again; the request can be sent again"
        self._fail(EngineFailed(again), lost, calls)
        self._restart()

    def take(self, message: object) -> None:
        """Pass on what a process says."""
        if isinstance(message, Progress):
            if self._progress is not None:
                self._progress(message.n_done, message.n_total, message.what)
        elif isinstance(message, Answered):
            if (answer := self._calls.pop(message.id, None)) is not None:
                answer.put(message)
        elif isinstance(message, Happened):
            self._pass_on(message.id, message.event)
            if message.event.ending is not None:
                self._wait_s = message.wait_s

    def _pass_on(self, ticket_id: int, event: Event) -> None:
        is_last = event.ending is not None
        ticket = self._tickets.pop(ticket_id, None) if is_last else self._tickets.get(ticket_id)
        if ticket is not None:
            self._open.tell(ticket, event)

    def _fail(self, error: SamovarError, ticket_ids: list[int], call_ids: list[int]) -> None:
        """End requests and calls with an error."""
        for ticket_id in ticket_ids:
            self._pass_on(ticket_id, Event(sequence_id=0, ending=Ending(reason="error", error=error)))
        for call_id in call_ids:
            if (answer := self._calls.pop(call_id, None)) is not None:
                answer.put(Answered(call_id, None, error))

    def _restart(self) -> None:
        """Start the process again, as often as it takes and is allowed."""
        failure: SamovarError = EngineFailed(_CLOSED)
        while not self._shared.is_closed:
            now = time.monotonic()
            self._crashes = [at for at in self._crashes if now - at < _CRASH_WINDOW_S] + [now]
            if (n := len(self._crashes)) > _MAX_CRASHES:
                failure = EngineFailed(f"the model's process ended {n} times within a minute, and stays down: open it again")
                _LOG.error("%s", failure)
                break
            try:
                self.opened = self._start()
                return
            except EngineFailed:
                continue  # it ended while it opened the model
            except SamovarError as error:
                failure = error
                break
        with self._shared.lock:
            self._shared.failure = failure
        self._fail(failure, list(self._tickets), [])


def _listen(client: "weakref.ref[ProcessClient]", shared: _Shared) -> None:
    """Pass events on until the client is closed, stays down, or is forgotten by all who used it."""
    while (child := shared.child) is not None:
        message = None
        with contextlib.suppress(EOFError, OSError):
            message = child.channel.receive()
        if (owner := client()) is None:
            return
        try:
            if message is not None:
                owner.take(message)
            else:
                owner.recover(child)
        except BaseException:  # of a caller's `progress`, say: nobody listens from here on
            owner.close()
            raise
        del owner


class RemoteModel:
    """Opens the model that `settings` describe, in a process of its own; its texts are read here. Raises as `LocalModel`
    does."""

    def __init__(self, settings: ModelSettings, progress: OnProgress | None) -> None:
        self.path = resolve(settings.path, default_store())
        cache = default_cache() if settings.cache else None
        checkpoint = open_checkpoint(self.path, cache)
        self.config = read_config(checkpoint)
        self.client = ProcessClient(settings, self.config.vocab_size, progress)
        opened = self.client.opened
        self.text: ModelText = with_template(read_model_text(checkpoint, cache), settings.chat_template)
        self.card = read_card(checkpoint, self.config, self.text)
        self.max_context, self.kv_type = opened.max_context, opened.kv_type
        self.slow_reason, self.warnings = opened.slow_reason, opened.warnings

    @property
    def has_failed(self) -> bool:
        """Whether the process stays down."""
        return self.client.has_failed

    def load_adapter(self, name: str, path: str) -> None:
        """See `LocalModel.load_adapter`. An adapter is loaded again when the process comes back."""
        self.client.call("load_adapter", name, str(Path(path).absolute()))
        self.client.adapters[name] = str(Path(path).absolute())

    def unload_adapter(self, name: str) -> None:
        """See `LocalModel.unload_adapter`."""
        self.client.call("unload_adapter", name)
        self.client.adapters.pop(name, None)

    def save_prefixes(self, folder: str) -> int:
        """See `LocalModel.save_prefixes`."""
        return _count(self.client.call("save_prefixes", str(Path(folder).absolute())))

    def load_prefixes(self, folder: str) -> int:
        """See `LocalModel.load_prefixes`."""
        return _count(self.client.call("load_prefixes", str(Path(folder).absolute())))

    def stats(self, timeout_s: float | None) -> EngineStats:
        """Numbers of the engine. Raises EngineFailed while it is down, or does not answer in time."""
        found = self.client.call("stats", timeout_s=timeout_s)
        assert isinstance(found, EngineStats), found
        return found


def _count(value: int | EngineStats | None) -> int:
    assert isinstance(value, int), value
    return value


def _submission(ticket: Ticket) -> Submit:
    return Submit(ticket.id, ticket.request, ticket.leader.id if ticket.leader is not None else None, ticket.is_idle_work)


def _spawn() -> _Child:
    """Start a process. In a group of its own it hears nothing of a Ctrl-C, not even while it starts."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "samovar.llm.engine_worker", str(theirs.fileno())]
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0)  # noqa: S603
        except OSError:
            ours.close()
            raise
    return _Child(process, Channel(ours, FromEngine))


def _send(child: _Child, message: ToEngine) -> None:
    with contextlib.suppress(OSError):  # the process is gone, which the listener sees too
        child.channel.send(message)


def _how(process: "subprocess.Popen[bytes]") -> str:
    code = process.poll()
    return "it hangs" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"


def _close(shared: _Shared) -> None:
    with shared.lock:
        shared.is_closed = True
        child, shared.child = shared.child, None
    if child is not None:
        child.end()
