"""The process of a model: opens it, runs its engine, and answers over a socket that it inherits.

Started as `python -m samovar.llm.engine_worker FD`. It ends when the other end is gone.
"""

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial

from samovar.engine.client import Ticket
from samovar.engine.engine_thread import EngineThread
from samovar.engine.request import Ending, Event
from samovar.errors import SamovarError
from samovar.llm.local_model import LocalModel
from samovar.llm.wire import (
    Answered,
    Call,
    Cancel,
    Channel,
    Check,
    Forget,
    Happened,
    Open,
    Opened,
    Progress,
    Refused,
    StopThinking,
    Submit,
    ToEngine,
)


def main() -> None:
    """Serve one model until nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal is the other process's to act on
    channel = Channel(socket.socket(fileno=int(sys.argv[1])), ToEngine)
    with contextlib.suppress(EOFError, OSError):  # the other process is gone
        _serve(channel)
    os._exit(0)  # a step may be running, and nobody waits for it


def _serve(channel: Channel) -> None:
    first = channel.receive()
    assert isinstance(first, Open), first
    try:
        model = LocalModel(first.settings, lambda *progress: channel.send(Progress(*progress)))
    except SamovarError as error:
        channel.send(Refused(error))
        return
    engine, tickets = model.client, dict[int, Ticket]()
    channel.send(Opened(model.max_context, model.kv_type, model.slow_reason, model.warnings))
    while True:
        message = channel.receive()
        if isinstance(message, Submit):
            _submit(message, engine, tickets, channel, model.engine.expected_wait_s)
        elif isinstance(message, Check):  # compiling takes time, and what comes behind it does not wait
            engine.aside(partial(_check, message, model, channel))
        elif isinstance(message, Call):
            if message.name in ("save_prefixes", "load_prefixes"):
                engine.aside(partial(_call, message, model, channel))
            else:  # the requests behind it may name the adapter
                _call(message, model, channel)
        elif isinstance(message, Forget):
            engine.forget(message.realm, message.ids, message.n_keep)
        elif (ticket := tickets.get(message.id)) is not None:
            if isinstance(message, Cancel):
                engine.cancel(ticket)
            elif isinstance(message, StopThinking):
                engine.stop_thinking(ticket)


def _check(message: Check, model: LocalModel, channel: Channel) -> None:
    failure = None
    try:
        model.engine.check(message.request)
        model.engine.matcher(message.request)
    except SamovarError as error:
        failure = error
    with contextlib.suppress(OSError):
        channel.send(Answered(message.id, None, failure))


def _call(message: Call, model: LocalModel, channel: Channel) -> None:
    value, failure = None, None
    try:
        value = getattr(model, message.name)(*message.arguments)
    except SamovarError as error:
        failure = error
    with contextlib.suppress(OSError):
        channel.send(Answered(message.id, value, failure))


def _submit(
    message: Submit, engine: EngineThread, tickets: dict[int, Ticket], channel: Channel, wait_s: Callable[[], float]
) -> None:
    def deliver(event: Event) -> None:
        if event.ending is not None:
            tickets.pop(message.id, None)
        with contextlib.suppress(OSError):  # the other process is gone, which `main` sees too
            channel.send(Happened(message.id, event, wait_s() if event.ending is not None else 0.0))

    leader = tickets.get(message.leader) if message.leader is not None else None
    try:
        ticket = engine.submit(message.request, deliver, leader=leader, is_idle_work=message.is_idle_work)
    except SamovarError as error:
        deliver(Event(sequence_id=0, ending=Ending(reason="error", error=error)))
        return
    tickets[message.id] = ticket
    if ticket.is_over:  # its ending overtook this line
        tickets.pop(message.id, None)


if __name__ == "__main__":
    main()
